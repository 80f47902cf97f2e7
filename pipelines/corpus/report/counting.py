"""The tables of a corpus -> the numbers of `Content`, by a Spark job each: documents, clusters, quarantine,
and tokens of sequences. Texts are not read here, see `texts.py`. What the driver holds grows with sources x
reasons, not with the corpus.
"""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.report.content import COPY, Amount, Fault

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


def count_sequences(documents: DataFrame, sequences: DataFrame) -> dict[str | None, int]:
    """Tokens by source of the documents whose pieces the sequences hold. No text and no token is read."""
    pieces = sequences.select(F.explode("segments").alias("piece")).select("piece.doc_id", "piece.num_tokens")
    sources = documents.where("drop_reason IS NULL").select("doc_id", "source")
    sums = pieces.join(sources, "doc_id").groupBy("source").agg(F.sum("num_tokens").alias("tokens"))
    return {row.source: row.tokens for row in sums.collect()}
