"""Clusters and survivors of a graph of any size, by rounds of DataFrames.

Each round is computed once into shards (`Table.hold`), so a lost executor costs nothing that was done before,
and its number of edges and its digest come for free: clusters have converged when the digest stays the same.
As soon as the edges that are left fit into the driver, `graph.py` finishes. Both ways give the same result.

Clusters: large-star and small-star in turn (Kiveris et al. 2014, "Connected Components in MapReduce and
Beyond"), about log2 of the longest path rounds. Survivors: in each round, the vertices without a smaller
neighbour survive and remove their neighbours (Luby 1986 with a fixed order).
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.few import send_rows
from pipelines.corpus.neardup.candidates import find_doc_id
from pipelines.corpus.neardup.graph import find_components, find_removed
from pipelines.delta import Table
from pipelines.held import HeldRows
from pipelines.tables import NEAR_DUPLICATES

logger = logging.getLogger(__name__)

DRIVER_EDGES = 1_000_000
"""Edges that the driver takes: about 100 MB."""
MAX_ROUNDS = 100
"""Far more than a graph needs: 30 rounds are enough for a chain of a billion documents."""

EDGES = Table(
    name="near_duplicate_edges",
    row="one pair of near duplicates, or of a cluster and its member",
    key=("a", "b"),
    checks={"in_order": "a < b"},
    ddl="""a STRING NOT NULL COMMENT 'vertex that survives rather',
           b STRING NOT NULL COMMENT 'the other one'""",
)
VERTICES = Table(
    name="near_duplicate_vertices",
    row="one text that is removed",
    key=("vertex",),
    ddl="vertex STRING NOT NULL COMMENT 'place in the order of survival'",
)


@dataclass(kw_only=True, slots=True)
class Rounds:
    """Where rounds are held, and who is told of their progress."""

    stack: ExitStack
    """Rows of the results live as long as it."""
    path: str
    """Table in whose folder the rounds are held."""
    report: Callable[[str], None] = logger.info
    driver_edges: int = DRIVER_EDGES
    num_rounds: list[int] = field(default_factory=list)
    """Edges at the beginning of each round, for tests and for a person."""

    def label_clusters(self, edges: DataFrame) -> DataFrame:
        """One row per vertex of an edge: member and cluster, the smallest vertex that it is connected to.

        Needs a, b with a < b. Raises RuntimeError if the rounds do not converge.
        """
        before = self._hold(edges)
        for number in range(1, MAX_ROUNDS + 1):
            if before.num_rows <= self.driver_edges:
                found = find_components(_collect(before))
                return send_rows(edges.sparkSession, found, "member STRING, cluster STRING")
            self._tell("clusters", number, before.num_rows)
            after = self._hold(before.rows.transform(make_large_stars).transform(make_small_stars))
            if after.digest == before.digest:
                stars = after.rows.select(F.col("b").alias("member"), F.col("a").alias("cluster"))
                centres = stars.select("cluster").distinct()
                return stars.union(centres.select(F.col("cluster").alias("member"), "cluster"))
            before = after
        raise RuntimeError(
            f"clusters of near duplicates did not converge in {MAX_ROUNDS} rounds; raise "
            "corpus.near_duplicates.min_jaccard, so that chains of similar texts are shorter"
        )

    def find_removed(self, edges: DataFrame) -> DataFrame:
        """Column vertex: those that have an edge to a survivor. See `graph.find_removed` for the rule.

        Needs a, b with a < b. Raises RuntimeError if the rounds do not end.
        """
        left, removed = self._hold(edges), list[DataFrame]()
        for number in range(1, MAX_ROUNDS + 1):
            if left.num_rows <= self.driver_edges:
                rest = pa.table({"vertex": find_removed(_collect(left))})
                removed.append(send_rows(edges.sparkSession, rest, "vertex STRING"))
                break
            self._tell("survivors", number, left.num_rows)
            neighbours = self.stack.enter_context(VERTICES.hold(remove_neighbours(left.rows), self.path))
            removed.append(neighbours.rows)
            left = self._hold(drop_decided(left.rows, neighbours.rows))
        else:
            raise RuntimeError(
                f"survivors of near duplicates were not found in {MAX_ROUNDS} rounds, as in long chains of "
                "texts of falling length; set corpus.near_duplicates.survivor=smallest_id, a random order"
            )
        found = removed[0]
        for more in removed[1:]:
            found = found.union(more)
        return found

    def _hold(self, edges: DataFrame) -> HeldRows:
        return self.stack.enter_context(EDGES.hold(edges.select("a", "b"), self.path))

    def _tell(self, what: str, number: int, num_edges: int) -> None:
        self.num_rounds.append(num_edges)
        self.report(f"near duplicates: {what}, round {number}: {num_edges:,} edges")


def make_large_stars(edges: DataFrame) -> DataFrame:
    """Each vertex connects its larger neighbours to the smallest vertex of its neighbourhood."""
    both = edges.union(edges.select("b", "a")).toDF("vertex", "neighbour")
    smallest = both.groupBy("vertex").agg(F.least("vertex", F.min("neighbour")).alias("smallest"))
    larger = both.where("neighbour > vertex").join(smallest, "vertex")
    return larger.select(F.col("smallest").alias("a"), F.col("neighbour").alias("b")).distinct()


def make_small_stars(edges: DataFrame) -> DataFrame:
    """Each vertex connects itself and its smaller neighbours to the smallest of them. Needs a < b."""
    smallest = edges.groupBy("b").agg(F.min("a").alias("smallest"))
    moved = edges.join(smallest, "b").select(F.col("smallest").alias("a"), F.col("a").alias("b"))
    return moved.where("a < b").union(smallest.select("smallest", "b")).distinct()


def remove_neighbours(edges: DataFrame) -> DataFrame:
    """Column vertex: neighbours of the vertices that have no smaller neighbour. Needs a < b."""
    survivors = edges.select("a").distinct().join(edges.select(F.col("b").alias("a")), "a", "left_anti")
    return edges.join(survivors, "a", "left_semi").select(F.col("b").alias("vertex")).distinct()


def drop_decided(edges: DataFrame, removed: DataFrame) -> DataFrame:
    """The edges between vertices that are neither removed nor sure to survive.

    A survivor's neighbours are all removed, so its edges go with them.
    """
    for end in ("a", "b"):
        edges = edges.join(removed.withColumnRenamed("vertex", end), end, "left_anti")
    return edges


def _collect(edges: HeldRows) -> pa.Table:
    return edges.rows.toArrow()


def choose_survivors(removals: DataFrame, removed: DataFrame) -> DataFrame:
    """b, and of its smallest survivor a: survivor, jaccard, num_buckets. One row per removed vertex.

    Every removed vertex has an edge to a survivor; if it has several, the smallest one is named.
    """
    is_left = removals.join(removed.withColumnRenamed("vertex", "a"), "a", "left_anti")
    return (
        is_left.groupBy("b")
        .agg(F.min(F.struct("a", "jaccard", "num_buckets")).alias("best"))
        .select("b", F.col("best.a").alias("survivor"), "best.jaccard", "best.num_buckets")
    )


def list_clusters(members: DataFrame, clusters: DataFrame, survivors: DataFrame) -> DataFrame:
    """Rows of NEAR_DUPLICATES: one per member of a cluster."""
    sizes = clusters.groupBy("cluster").agg(F.count("*").cast("int").alias("cluster_size"))
    rows = (
        members.join(clusters.withColumnRenamed("member", "order"), "order")
        .join(sizes, "cluster")
        .join(survivors.withColumnRenamed("b", "order"), "order", "left")
        .withColumn("cluster_id", find_doc_id(F.col("cluster")))
        .withColumn("duplicate_of", find_doc_id(F.col("survivor")))
    )
    return rows.select(*NEAR_DUPLICATES.schema.names)
