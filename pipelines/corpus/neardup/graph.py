"""Clusters and survivors of a graph that fits into the driver's memory, in NumPy and plain Python.

Vertices are strings that sort in the order of survival: of two near duplicates the smaller one stays. Edges
are pairs (a, b) with a < b whose Jaccard similarity was checked. `rounds.py` gives the same results for
larger graphs.

Cost: a million edges take about 3 s and 400 MB.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_Places = npt.NDArray[np.int64]


def find_components(edges: pa.Table) -> pa.Table:
    """One row per vertex of an edge: member, cluster. The cluster of a member is the smallest vertex that it
    is connected to. Needs a, b: strings or large strings, as the result is."""
    vertices, firsts, seconds = _number(edges)
    parents = list(range(len(vertices)))

    def find_root(vertex: int) -> int:
        while parents[vertex] != vertex:
            parents[vertex] = parents[parents[vertex]]  # halves the path, so that it stays short
            vertex = parents[vertex]
        return vertex

    for first, second in zip(firsts.tolist(), seconds.tolist(), strict=True):
        one, other = find_root(first), find_root(second)
        parents[max(one, other)] = min(one, other)
    roots = np.array([find_root(vertex) for vertex in range(len(vertices))], np.int64)
    return pa.table({"member": vertices, "cluster": vertices.take(pa.array(roots))})


def find_removed(edges: pa.Table) -> pa.Array:
    """The vertices that have an edge to a survivor: sorted. Needs a, b.

    Greedy, in the order of survival: a vertex survives unless a smaller survivor is its neighbour. So every
    removed vertex has an edge to a survivor, and no two survivors have one. A vertex that is connected to a
    survivor by a chain only survives.
    """
    vertices, firsts, seconds = _number(edges)
    by_first = np.argsort(firsts, kind="stable")
    neighbours = seconds[by_first].tolist()
    starts = np.searchsorted(firsts[by_first], np.arange(len(vertices) + 1)).tolist()
    is_removed = np.zeros(len(vertices), bool)
    for vertex in range(len(vertices)):
        if not is_removed[vertex]:
            for neighbour in neighbours[starts[vertex] : starts[vertex + 1]]:
                is_removed[neighbour] = True
    return vertices.filter(pa.array(is_removed))


def choose_best(edges: pa.Table, removed: pa.Array) -> pa.Table:
    """b, and of its smallest survivor a: survivor, jaccard, num_buckets. One row per removed vertex.

    As `find.choose_survivors`. Needs a, b, jaccard, num_buckets.
    """
    left = edges.filter(pc.invert(pc.is_in(edges["a"], value_set=removed)))
    columns = ("b", "a", "jaccard", "num_buckets")
    ordered = left.select(columns).sort_by([(name, "ascending") for name in columns])
    ends = np.asarray(ordered["b"].to_numpy(zero_copy_only=False))
    is_first = np.append(True, ends[1:] != ends[:-1])[: len(ends)]
    return ordered.filter(pa.array(is_first)).rename_columns(["b", "survivor", "jaccard", "num_buckets"])


def _number(edges: pa.Table) -> tuple[pa.Array, _Places, _Places]:
    """(the vertices in order, the place of each a among them, the place of each b)."""
    found = pc.unique(pa.chunked_array([*edges["a"].chunks, *edges["b"].chunks], edges["a"].type))
    vertices = found.take(pc.sort_indices(found))
    firsts, seconds = (
        np.asarray(pc.index_in(edges[end], vertices).to_numpy(), np.int64) for end in ("a", "b")
    )
    return vertices, firsts, seconds
