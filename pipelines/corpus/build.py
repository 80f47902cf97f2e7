"""Records -> documents and quarantine, and the counts that prove that no record was lost."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from pipelines.corpus.dedup import label_exact_duplicates, label_repeated_keys
from pipelines.corpus.ids import content_hash, doc_id
from pipelines.corpus.quality import label_quality
from pipelines.corpus.quarantine import DAMAGED_FILE
from pipelines.corpus.readers.files import MAX_RAW_BYTES
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source, check_names
from pipelines.corpus.split import label_splits
from pipelines.delta import ContractError
from pipelines.tables import DOCUMENTS, QUARANTINE


def build_documents(
    records: DataFrame, sources: Sequence[Source], rules: Rules
) -> tuple[DataFrame, DataFrame]:
    """The rows of documents and of quarantine; every record becomes one row in one of the two.

    `records` are rows of `read_source`, of all sources together; they are used several times, so persist
    them. The result depends only on the records, not on their order or partitioning.
    """
    check_names(sources)
    identity = doc_id(F.col("source"), F.col("key"), F.col("file"), F.col("offset"))
    identified = records.where("reason IS NULL").withColumn("doc_id", identity)
    if any("key" in source.fields for source in sources):
        identified = label_repeated_keys(identified)
    else:
        no_first = {"first_file": F.lit(None).cast("string"), "first_offset": F.lit(None).cast("bigint")}
        identified = identified.withColumns(no_first)
    documents = (
        identified.where("first_file IS NULL")
        .withColumns(
            {
                "content_hash": content_hash(F.col("text"), F.col("parts")),
                "num_chars": F.char_length("text"),
                "num_bytes": F.octet_length("text"),
            }
        )
        .transform(label_splits, sources)
        .transform(label_exact_duplicates)
        .transform(label_quality, rules)
        .select(*DOCUMENTS.schema.names)
    )
    broken = records.where("reason IS NOT NULL").select(*QUARANTINE.schema.names)
    return documents, broken.unionByName(_quarantine_repeated_keys(identified))


def reconcile(records: DataFrame, documents: DataFrame, quarantine: DataFrame) -> dict[str, Any]:
    """Counts for the facts: records, documents, quarantine by kind, kept by split, dropped by reason, and
    each source.

    Raises ContractError if a record is neither in documents nor in quarantine, or in both.
    """
    nothing = F.lit(None).cast("string")
    kind = F.substring_index("reason", ":", 1)
    rows = [
        records.select(
            "source", F.lit("records").alias("table"), nothing.alias("reason"), nothing.alias("split")
        ),
        documents.select("source", F.lit("documents"), "drop_reason", "split"),
        quarantine.select("source", F.lit("quarantine"), kind, nothing),
    ]
    # One query for the three counts: a Spark job costs more than counting a small corpus.
    keys = ("source", "table", "reason", "split")
    groups = reduce(DataFrame.unionAll, rows).groupBy(*keys).count().collect()
    good = [row for row in groups if row.table == "documents"]
    broken = [row for row in groups if row.table == "quarantine"]
    kept = _sum_by("split", [row for row in good if row.reason is None])
    dropped = _sum_by("reason", [row for row in good if row.reason is not None])
    quarantined = _sum_by("reason", broken)
    read = _sum_by("source", [row for row in groups if row.table == "records"])
    num_records, num_documents, num_quarantined = (
        sum(counts) for counts in (read.values(), (row["count"] for row in good), quarantined.values())
    )
    if num_records != num_documents + num_quarantined:
        raise ContractError(
            f"corpus: {num_records:,} records became {num_documents:,} documents and {num_quarantined:,} "
            "rows of quarantine; the difference must be 0: did the files change while they were read?"
        )
    lost = _sum_by("source", broken)
    damaged = _sum_by("source", [row for row in broken if row.reason in DAMAGED_FILE])
    return {
        "records": num_records,
        "documents": num_documents,
        "quarantined": num_quarantined,
        "kept": kept,
        "dropped": dropped,
        "quarantine": quarantined,
        "sources": {
            name: {"records": read[name], "quarantined": lost.get(name, 0), "damaged": damaged.get(name, 0)}
            for name in read
        },
    }


def _sum_by(name: str, groups: list[Row]) -> dict[str, int]:
    """Counts of the groups by the value of one of their columns, sorted."""
    sums: dict[str, int] = {}
    for row in groups:
        sums[row[name]] = sums.get(row[name], 0) + row["count"]
    return dict(sorted(sums.items()))


def _quarantine_repeated_keys(identified: DataFrame) -> DataFrame:
    """The records that repeat a key; raw is their text, because the bytes of good records are not kept."""
    first = F.concat(
        F.lit("; first in "), "first_file", F.lit(" at offset "), F.col("first_offset").cast("string")
    )
    repeated = identified.where("first_file IS NOT NULL")
    return repeated.select(
        "source",
        "file",
        "offset",
        "line",
        F.concat(F.lit("duplicate key: "), F.substring("key", 1, 200), first).alias("reason"),
        F.substring(F.col("text").cast("binary"), 1, MAX_RAW_BYTES).alias("raw"),
    )
