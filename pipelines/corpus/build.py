"""Records -> documents and quarantine, and the count that shows that nothing was lost on the way."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.dedup import label_exact_duplicates, label_repeated_keys
from pipelines.corpus.ids import content_hash, doc_id
from pipelines.corpus.quality import Rules, label_quality
from pipelines.corpus.readers.files import MAX_RAW_BYTES
from pipelines.corpus.source import Source
from pipelines.corpus.split import label_splits
from pipelines.delta import ContractError
from pipelines.tables import DOCUMENTS, QUARANTINE


def build_documents(
    records: DataFrame, sources: Sequence[Source], rules: Rules
) -> tuple[DataFrame, DataFrame]:
    """The rows of documents and of quarantine; every record becomes one row of one of the two.

    `records` are rows of `read_source`, of all sources together; they are used several times, so persist them.
    The result depends on the records alone, not on their order or partitioning.
    """
    check_names(sources)
    identity = doc_id(F.col("source"), F.col("key"), F.col("file"), F.col("offset"))
    identified = records.where("reason IS NULL").withColumn("doc_id", identity)
    if any("key" in source.fields for source in sources):
        identified = label_repeated_keys(identified)
    else:
        nobody = {"first_file": F.lit(None).cast("string"), "first_offset": F.lit(None).cast("bigint")}
        identified = identified.withColumns(nobody)
    documents = (
        identified.where("first_file IS NULL")
        .withColumns(
            {
                "content_hash": content_hash(F.col("text")),
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
    return documents, broken.unionByName(_quarantined(identified))


def check_names(sources: Sequence[Source]) -> None:
    """Raises ValueError where two sources have one name: their documents would have one id."""
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"names of sources must be unique, repeated: {', '.join(repeated)}; rename one of each"
        )


def reconcile(records: DataFrame, documents: DataFrame, quarantine: DataFrame) -> dict[str, Any]:
    """Counts to print: records, documents, quarantine by kind, kept by split, dropped by reason.

    Raises ContractError where a record is neither in documents nor in quarantine, or is in both.
    """
    nothing = F.lit(None).cast("string")
    kind = F.substring_index("reason", ":", 1)
    rows = [
        records.select(F.lit("records").alias("table"), nothing.alias("reason"), nothing.alias("split")),
        documents.select(F.lit("documents"), "drop_reason", "split"),
        quarantine.select(F.lit("quarantine"), kind, nothing),
    ]
    # One query for the three counts: a Spark job costs more than counting a small corpus.
    groups = reduce(DataFrame.unionAll, rows).groupBy("table", "reason", "split").count().collect()
    num_records = sum(row["count"] for row in groups if row.table == "records")
    kept = {row.split: row["count"] for row in groups if row.table == "documents" and row.reason is None}
    dropped: dict[str, int] = {}
    for row in groups:
        if row.table == "documents" and row.reason is not None:
            dropped[row.reason] = dropped.get(row.reason, 0) + row["count"]
    quarantined = {row.reason: row["count"] for row in groups if row.table == "quarantine"}
    num_documents, num_quarantined = sum(kept.values()) + sum(dropped.values()), sum(quarantined.values())
    if num_records != num_documents + num_quarantined:
        raise ContractError(
            f"corpus: {num_records:,} records became {num_documents:,} documents and {num_quarantined:,} rows of "
            "quarantine; the difference must be 0: did the files change while they were read?"
        )
    return {
        "records": num_records,
        "documents": num_documents,
        "quarantined": num_quarantined,
        "kept": dict(sorted(kept.items())),
        "dropped": dict(sorted(dropped.items())),
        "quarantine": dict(sorted(quarantined.items())),
    }


def _quarantined(identified: DataFrame) -> DataFrame:
    """The records that repeat a key; raw is their text, since the bytes of good records are not carried along."""
    first = F.concat(
        F.lit("; first in "), "first_file", F.lit(" at byte "), F.col("first_offset").cast("string")
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
