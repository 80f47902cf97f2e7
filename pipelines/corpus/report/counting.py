"""The tables of a corpus -> `Content`, by four Spark jobs: documents, clusters, quarantine, examples.

Only numbers are computed over all rows; texts are read once, for the examples, and about 40 per reason reach
the driver. What the driver holds grows with sources x reasons, not with the corpus.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.report.content import COPY, EXAMPLE_CHARS, Amount, Example, Fault, show_url

NUM_EXAMPLES = 3
_CANDIDATES = 40
"""Expected rows per reason from which the examples are taken: fewer than 3 come with p = 1e-14."""
_OUTCOME, _LENGTH, _LANGUAGE = 0b00111, 0b11001, 0b11010
"""grouping_id of (source, reason, is_kept, bits, language): a bit is 1 where the column is summed over."""

Groups = dict[tuple[Any, Any], Amount]


def count_documents(documents: DataFrame, signals: DataFrame | None) -> tuple[Groups, Groups, Groups]:
    """`outcomes`, `lengths` and `languages` of `Content`. Without signals, every language is None."""
    bits = F.when(F.col("num_chars") > 0, F.length(F.bin("num_chars"))).otherwise(0)
    rows = documents.select("doc_id", "source", F.col("drop_reason").alias("reason"), "num_chars")
    rows = rows.withColumns({"is_kept": F.col("reason").isNull(), "bits": bits})
    if signals is None:
        rows = rows.withColumn("language", F.lit(None).cast("string"))
    else:
        rows = rows.join(signals.select("doc_id", "language"), "doc_id", "left")
    sets = [["source", "reason"], ["is_kept", "bits"], ["is_kept", "language"]]
    groups = (
        rows.groupingSets(sets, "source", "reason", "is_kept", "bits", "language")
        .agg(F.grouping_id().alias("set"), F.count("*").alias("n"), F.sum("num_chars").alias("chars"))
        .collect()
    )
    return (
        _take(groups, _OUTCOME, "source", "reason"),
        _take(groups, _LENGTH, "is_kept", "bits"),
        _take(groups, _LANGUAGE, "is_kept", "language"),
    )


def _take(groups: Sequence[Row], grouping: int, *names: str) -> Groups:
    return {(row[names[0]], row[names[1]]): Amount(row.n, row.chars) for row in groups if row.set == grouping}


def count_clusters(documents: DataFrame, duplicates: DataFrame | None) -> dict[tuple[str, int], int]:
    """(COPY or NEAR_DUPLICATE, texts of a cluster) -> number of clusters. A copy that failed a rule counts
    too: its survivor failed the same rule."""
    is_copy = F.col("duplicate_of").isNotNull() & ~F.col("drop_reason").eqNullSafe(NEAR_DUPLICATE)
    copies = documents.where(is_copy).groupBy("duplicate_of").agg((F.count("*") + 1).alias("size"))
    sizes = copies.select(F.lit(COPY).alias("kind"), "size")
    if duplicates is not None:
        first = duplicates.where("doc_id = cluster_id")
        sizes = sizes.unionAll(
            first.select(F.lit(NEAR_DUPLICATE).alias("kind"), F.col("cluster_size").cast("bigint"))
        )
    return {(row.kind, row["size"]): row["count"] for row in sizes.groupBy("kind", "size").count().collect()}


def count_faults(quarantine: DataFrame) -> list[Fault]:
    """By source and kind of reason; most frequent first."""
    groups = (
        quarantine.groupBy("source", F.substring_index("reason", ":", 1).alias("kind"))
        .agg(F.count("*").alias("n"), F.min(F.struct("file", "offset")).alias("first"))
        .collect()
    )
    faults = [
        Fault(
            source=row.source, kind=row.kind, num_records=row.n, file=row.first.file, offset=row.first.offset
        )
        for row in groups
    ]
    return sorted(faults, key=lambda fault: (-fault.num_records, fault.source, fault.kind))


def choose_examples(documents: DataFrame, dropped: Mapping[str, int]) -> dict[str, list[Example]]:
    """NUM_EXAMPLES documents of each reason in `dropped` (reason -> documents), fewer if there are fewer.

    The choice is by a hash of doc_id: the same documents for equal tables, as good as random among all.
    """
    if not dropped:
        return {}
    place = F.xxhash64("doc_id")
    rows = documents.where(place <= _limit_place(dropped)).select(
        place.alias("place"),
        "doc_id",
        "source",
        "file",
        "offset",
        "num_chars",
        "duplicate_of",
        F.col("drop_reason").alias("reason"),
        F.substring("text", 1, EXAMPLE_CHARS).alias("text"),
        F.col("metadata")["url"].alias("url"),
    )
    chosen: dict[str, list[Example]] = {}
    for row in sorted(rows.collect(), key=lambda row: (row.place, row.doc_id)):
        values = row.asDict()
        reason, url = values.pop("reason"), values.pop("url")
        values.pop("place")
        if len(of_reason := chosen.setdefault(reason, [])) < NUM_EXAMPLES:
            of_reason.append(Example(**values, url=show_url(url)))
    return chosen


def _limit_place(dropped: Mapping[str, int]) -> Column:
    """The largest hash with which documents of a reason are candidates; null for those that are kept."""
    limits = {
        reason: 2**63 - 1 if count <= _CANDIDATES else -(2**63) + 2**64 * _CANDIDATES // count
        for reason, count in dropped.items()
    }
    return F.coalesce(
        *(F.when(F.col("drop_reason") == reason, F.lit(limit)) for reason, limit in limits.items())
    )
