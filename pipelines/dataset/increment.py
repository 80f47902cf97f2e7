"""The groups that must be built again because documents were added, removed or changed, and the sequences
that they replace.

The result of an increment is the table of a full build over all documents: groups are a function of the
documents (layout.py), so a group is the same as before unless one of its documents changed, or moved because
its source has grown. Only files of the documents that are not in both versions are compared, by hashes; only
groups that differ are tokenised. Cost: a scan of four small columns of all documents, and the groups.
"""

from functools import reduce
from typing import NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.change import Replaced
from pipelines.dataset.build import COUNTED, SourceCounts, find_groups, sum_counts, sum_sources
from pipelines.dataset.documents import Before, DocumentSummary, select_kept
from pipelines.dataset.earlier import ChangedFiles, find_shards, require_measured
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.layout import Layout, find_moved, lay_out_groups
from pipelines.digest import Totals, aggregate_totals, collect_totals, hash_rows
from pipelines.held import read_shards
from pipelines.pin import TableLog
from pipelines.tables import DOCUMENTS, SEQUENCES

HASHED_CONTENT = ("text", "parts")
"""What content_hash stands for."""
MAX_NAMED_FILES = 1_000
"""Files of a source by which documents are chosen; more make the plan of the query long."""


class Increment(NamedTuple):
    """What a build has to do."""

    groups: frozenset[int]
    """Those to build; some may have no document any more."""
    replaced: Replaced
    """Shards of the sequences that go."""
    counts: SourceCounts
    """Of the sequences in them."""


def read_versions(spark: SparkSession, files: ChangedFiles) -> Before:
    """The rows of the files. Nothing is read yet."""

    def read(names: list[str]) -> DataFrame:
        return read_shards(spark, DOCUMENTS.schema, files.folder, names)

    # Most increments only add, and each part costs Spark jobs, also without rows.
    return Before(read(files.unchanged), read(files.removed) if files.removed else None, read(files.added))


def find_increment(
    versions: Before,
    summary: DocumentSummary,
    layout: Layout,
    sequences: TableLog,
    *,
    task: str,
    group_bytes: int,
) -> Increment:
    """The groups of `layout` that are not the same as in the table `sequences`. Two Spark jobs.

    Raises FullBuildNeededError if the files of the table do not hold one group each, of those known before,
    or if another program has written them so that they cannot be read alone.
    """
    known = summary.before
    assert known is not None, "the summary counts both versions"
    old = lay_out_groups(known.place_bytes, group_bytes)
    groups = find_moved(old, layout, shared_before=known.shared_before, shared_now=known.shared_now)
    groups |= _find_changed(versions, old, layout, task)
    shards = find_shards(sequences, groups, old.groups)
    totals, counts = _measure(versions.added.sparkSession, sequences, shards)
    require_measured(sequences, shards, {split: of["sequences"] for split, of in sum_sources(counts).items()})
    return Increment(frozenset(groups), Replaced(shards=tuple(shards), totals=totals), counts)


def read_groups(
    spark: SparkSession, files: ChangedFiles, layout: Layout, groups: frozenset[int]
) -> DataFrame:
    """The documents of now, without most of those that are in none of the groups. The log tells which files
    may hold the others: Spark reads no log and opens no other file."""
    names = files.find_places(_list_places(layout, groups))
    return select_groups(read_shards(spark, DOCUMENTS.schema, files.folder, names), layout, groups)


def select_groups(documents: DataFrame, layout: Layout, groups: frozenset[int]) -> DataFrame:
    """The documents, without most of those that are in none of the groups: of other sources and files, which
    Parquet skips by its statistics."""
    conditions = [
        (F.col("source") == source)
        & (
            F.lit(True)
            if named is None or len(named) > MAX_NAMED_FILES
            else F.col("file").isin(sorted(named))
        )
        for source, named in _list_places(layout, groups).items()
    ]
    return documents.where(reduce(lambda one, other: one | other, conditions, F.lit(False)))


def _list_places(layout: Layout, groups: frozenset[int]) -> dict[str, set[str] | None]:
    """Source -> files of it that have documents in the groups; None = any."""
    found: dict[str, set[str] | None] = {}
    for (source, file), numbers in layout.places.items():
        if groups & set(numbers):
            named = found.setdefault(source, set())
            found[source] = named | {file} if named is not None and file is not None else None
    return found


def _find_changed(versions: Before, old: Layout, new: Layout, task: str) -> set[int]:
    """Groups with a document that is only in one of the versions, or differs in what its sequences show."""
    columns = {"content_hash", "split", "source", *load_builder(task).columns}.difference(HASHED_CONTENT)

    def describe(rows: DataFrame, layout: Layout, version: int) -> DataFrame:
        hashed = hash_rows(rows.schema, sorted(columns)).alias("hash")
        kept = select_kept(rows).select("doc_id", "source", "file", hashed)
        return find_groups(kept, layout).select("doc_id", "hash", "group", F.lit(version).alias("version"))

    both = describe(versions.added, new, 1)
    if versions.removed is not None:
        both = both.unionByName(describe(versions.removed, old, -1))
    changed = both.groupBy("doc_id", "hash", "group").agg(F.sum("version").alias("rows")).where("rows != 0")
    return {row["group"] for row in changed.select("group").distinct().collect()}


def _measure(spark: SparkSession, log: TableLog, shards: list[str]) -> tuple[Totals, SourceCounts]:
    """Totals of the digest, and counts by split and source, of the rows in the shards: at most one job."""
    if not shards:
        return Totals(), {}
    sequences = read_shards(spark, SEQUENCES.schema, log.folder or log.path, shards)
    sums = [*aggregate_totals(sequences.schema, SEQUENCES.schema.names), *sum_counts()]
    found = sequences.groupBy("split", "source").agg(*sums).collect()
    totals = reduce(Totals.add, (collect_totals(row.asDict()) for row in found), Totals())
    counts: SourceCounts = {}
    for row in found:
        counts.setdefault(row["split"], {})[row["source"]] = {name: row[name] for name in COUNTED}
    return totals, counts
