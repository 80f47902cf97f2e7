"""Clusters and survivors of graphs: on the driver, by rounds of DataFrames, and by a twin that searches."""

import random
from contextlib import ExitStack

import pyarrow as pa
import pytest

from pipelines.corpus.neardup import rounds
from pipelines.corpus.neardup.candidates import _REMOVABLE, keep_removable
from pipelines.corpus.neardup.graph import choose_best, find_components, find_removed
from pipelines.corpus.neardup.rounds import Rounds


def find_slowly(edges):
    """Twin: (smallest vertex of the component of each vertex, removed vertices)."""
    neighbours = {}
    for a, b in edges:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    clusters, removed = {}, set()
    for vertex in sorted(neighbours):
        if vertex not in clusters:
            waiting = [vertex]
            while waiting:
                found = waiting.pop()
                if found not in clusters:
                    clusters[found] = vertex
                    waiting += neighbours[found]
        if vertex not in removed:
            removed |= {other for other in neighbours[vertex] if other > vertex}
    return clusters, removed


def random_graph(seed, num_vertices, num_edges):
    draw = random.Random(seed)
    pairs = (sorted(draw.sample(range(num_vertices), 2)) for _ in range(num_edges))
    return sorted({(f"{a:05d}", f"{b:05d}") for a, b in pairs})


def path_graph(length):
    return [(f"{n:05d}", f"{n + 1:05d}") for n in range(length)]


def star_graph(num_leaves, centre):
    return sorted(
        tuple(sorted((f"{centre:05d}", f"{leaf:05d}"))) for leaf in range(num_leaves) if leaf != centre
    )


GRAPHS = {
    "one edge": [("a", "b")],
    "path": path_graph(20),
    "star around the last": star_graph(30, 99_999),
    "sparse": random_graph(1, 100, 60),
    "dense": random_graph(2, 30, 120),
    "short paths": path_graph(9) + [(f"x{a}", f"x{b}") for a, b in path_graph(9)],
}


def to_arrow(edges):
    return pa.table({"a": [a for a, _ in edges], "b": [b for _, b in edges]})


@pytest.mark.parametrize("name", GRAPHS)
def test_driver_finds_clusters_and_survivors_of_a_twin(name):
    clusters, removed = find_slowly(GRAPHS[name])
    found = find_components(to_arrow(GRAPHS[name])).to_pylist()
    assert {row["member"]: row["cluster"] for row in found} == clusters
    assert find_removed(to_arrow(GRAPHS[name])).to_pylist() == sorted(removed)


@pytest.mark.parametrize("name", GRAPHS)
def test_driver_names_the_smallest_survivor_of_each(name):
    edges, removed = GRAPHS[name], set(find_slowly(GRAPHS[name])[1])
    table = to_arrow(edges).append_column("jaccard", pa.array([0.9] * len(edges)))
    table = table.append_column("num_buckets", pa.array(range(len(edges)), pa.int32()))
    shuffled = table.take(random.Random(3).sample(range(len(edges)), len(edges)))
    found = {row["b"]: row for row in choose_best(shuffled, find_removed(table)).to_pylist()}
    expected = {b: min(a for a, other in edges if other == b and a not in removed) for b in removed}
    assert {b: row["survivor"] for b, row in found.items()} == expected
    assert all(edges[row["num_buckets"]] == (row["survivor"], b) for b, row in found.items())


def test_driver_keeps_edges_to_removable_vertices():
    orders = [f"{rank:020d}{'f' * 32}" for rank in (0, _REMOVABLE - 1, _REMOVABLE, _REMOVABLE + 1)]
    edges = pa.table({"a": [orders[0]] * 4, "b": orders})
    assert keep_removable(edges)["b"].to_pylist() == orders[2:]


def test_driver_takes_a_graph_without_edges():
    empty = pa.table({"a": pa.array([], pa.string()), "b": pa.array([], pa.string())})
    assert find_components(empty).num_rows == len(find_removed(empty)) == 0
    empty = empty.append_column("jaccard", pa.array([], pa.float64()))
    empty = empty.append_column("num_buckets", pa.array([], pa.int32()))
    assert choose_best(keep_removable(empty), find_removed(empty)).num_rows == 0


def test_a_chain_alone_removes_nothing():
    """1-2-3-4-5: 2 goes with 1 and 4 with 3; 3 and 5 have no edge to a smaller survivor."""
    assert find_removed(to_arrow(path_graph(4))).to_pylist() == ["00001", "00003"]


@pytest.mark.slow
@pytest.mark.parametrize("driver_edges", [0, 20])
def test_rounds_find_what_the_driver_finds(spark, tmp_path, driver_edges):
    edges = [(f"{name}{a}", f"{name}{b}") for name in GRAPHS for a, b in GRAPHS[name]]
    # A path is the worst case for survivors: each round decides two of its vertices.
    without_path = [(a, b) for a, b in edges if not a.startswith("path")]
    clusters, (_, removed) = find_slowly(edges)[0], find_slowly(without_path)
    rows, lines = spark.createDataFrame(edges, "a STRING, b STRING"), []
    with ExitStack() as stack:
        by_rounds = Rounds(
            stack=stack, path=str(tmp_path), report=lines.append, driver_edges=driver_edges, num_rounds=[]
        )
        found = {row.member: row.cluster for row in by_rounds.label_clusters(rows).collect()}
        num_cluster_rounds = len(by_rounds.num_rounds)
        fewer = spark.createDataFrame(without_path, "a STRING, b STRING")
        gone = [row.vertex for row in by_rounds.find_removed(fewer).collect()]
    assert found == clusters
    assert sorted(gone) == sorted(removed)
    # A path of 20 needs 5 halvings, and one round more shows that nothing changes.
    assert 2 <= num_cluster_rounds <= 8
    assert len(by_rounds.num_rounds) > num_cluster_rounds
    assert lines[0] == f"near duplicates: clusters, round 1: {len(edges):,} edges"


def test_rounds_that_do_not_converge_stop_with_an_error(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "MAX_ROUNDS", 1)
    rows = spark.createDataFrame(path_graph(20), "a STRING, b STRING")
    with ExitStack() as stack, pytest.raises(RuntimeError, match="did not converge in 1 rounds"):
        Rounds(stack=stack, path=str(tmp_path), driver_edges=0).label_clusters(rows)
    with ExitStack() as stack, pytest.raises(RuntimeError, match="were not found in 1 rounds"):
        Rounds(stack=stack, path=str(tmp_path), driver_edges=0).find_removed(rows)
