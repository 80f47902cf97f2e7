"""What documents and quarantine must hold, counted on positions before a document is written."""

from collections.abc import Collection, Sequence
from functools import reduce
from operator import xor
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.quality import EXACT_DUPLICATE, label_quality
from pipelines.corpus.quarantine import DAMAGED_FILE
from pipelines.corpus.rules import Rules

LABELS_COUNTED = ("kept", EXACT_DUPLICATE, NEAR_DUPLICATE)
"""Documents counted by source too: `neardup/find.check_losses` needs what a source loses to copies."""
_TABLES = {"documents": ("documents", "copies"), "records": ("records",), "repeated": ("repeated",)}
"""Which rows of the query are counted together."""


def count_records(
    positions: DataFrame,
    documents: DataFrame,
    copies: DataFrame | None,
    repeated: DataFrame | None,
    rules: Rules,
    shared_names: Collection[str] = (),
) -> tuple[dict[str, Any], int]:
    """The facts, as `Corpus.facts` has them, and the checksum of the documents. One query over positions.
    `shared_names` are sources several of whose files have one name (`Format.name_file`).

    Raises ChangedMeanwhileError if a good record is neither a document nor a repeated key.
    """
    # A file with several damaged parts is one, if its name tells it from others.
    own_part = F.when(F.col("source").isin(*shared_names), F.col("offset").cast("string"))
    positions = positions.withColumn("broken_file", F.concat_ws("\n", "file", own_part))
    counted = [
        _group(label_quality(without_survivor(documents), rules), "documents", 1),
        _group(
            positions.where("doc_id IS NOT NULL OR reason IS NOT NULL"),
            "records",
            1,
            F.substring_index("reason", ":", 1),
        ),
    ]
    if copies is not None:  # counted as documents without a copy above: take them away and add them again
        without = label_quality(without_survivor(copies), rules)
        counted += [_group(without, "copies", -1), _group(label_quality(copies, rules), "copies", 1)]
    if repeated is not None:
        counted += [_group(repeated, "repeated", 1, F.lit("duplicate key"))]
    rows = (
        reduce(DataFrame.unionAll, counted)
        .groupBy("table", "source", "split", "reason")
        .agg(
            F.sum("weight").alias("count"),
            F.bit_xor("hash").alias("hash"),
            F.count_distinct("broken_file").alias("num_files"),
        )
        .collect()
    )
    found = {name: [row for row in rows if row.table in tables] for name, tables in _TABLES.items()}
    checksum = reduce(xor, (row.hash for row in rows if row.table == "documents"), 0)
    good, broken = (
        [row for row in found["records"] if (row.reason is None) == is_good] for is_good in (True, False)
    )
    facts = _describe(found["documents"], [*broken, *found["repeated"]])
    num_good, num_repeated = (sum(row["count"] for row in rows) for rows in (good, found["repeated"]))
    if num_good != facts["documents"] + num_repeated:
        raise ChangedMeanwhileError(
            f"corpus: {num_good:,} good records became {facts['documents']:,} documents and {num_repeated:,} "
            "repeated keys; the difference must be 0: did the files change while they were read?"
        )
    return facts, checksum


def count_edits(documents: DataFrame) -> dict[str, dict[str, int]]:
    """By cleaning step or kind of placeholder: documents changed, and edits in all of them. Needs edits."""
    counted = (
        documents.select(F.explode("edits").alias("step", "edits"))
        .groupBy("step")
        .agg(F.count("*").alias("documents"), F.sum("edits").alias("edits"))
        .collect()
    )
    return {row.step: {"documents": row.documents, "edits": row.edits} for row in sorted(counted)}


def without_survivor(documents: DataFrame) -> DataFrame:
    """The documents as if they were copies of nothing."""
    failed = F.col("failed_rule") if "failed_rule" in documents.columns else F.lit(None).cast("string")
    return documents.withColumns(
        {"duplicate_of": F.lit(None).cast("string"), "failed_rule": F.when(failed != NEAR_DUPLICATE, failed)}
    )


def _group(rows: DataFrame, table: str, weight: int, reason: Column | None = None) -> DataFrame:
    is_document = table == "documents"
    return rows.select(
        F.lit(table).alias("table"),
        "source",
        "split",
        (F.col("drop_reason") if reason is None else reason.cast("string")).alias("reason"),
        F.lit(weight).alias("weight"),
        (_hash() if is_document else F.lit(0).cast("bigint")).alias("hash"),
        (F.col("broken_file") if table == "records" else F.lit(None).cast("string")).alias("broken_file"),
    )


def _describe(documents: Sequence[Row], broken: Sequence[Row]) -> dict[str, Any]:
    kept = _sum_by("split", [row for row in documents if row.reason is None])
    dropped = _sum_by("reason", [row for row in documents if row.reason is not None])
    quarantined, lost = _sum_by("reason", broken), _sum_by("source", broken)
    # Files, not their parts: each row group of one shifted Parquet file is a row of quarantine.
    damaged = _sum_by("source", [row for row in broken if row.reason in DAMAGED_FILE], "num_files")
    read = _sum_by("source", [*documents, *broken])
    by_label = {
        label: _sum_by("source", [row for row in documents if (row.reason or "kept") == label])
        for label in LABELS_COUNTED
    }
    num_documents, num_quarantined = sum(row["count"] for row in documents), sum(quarantined.values())
    return {
        "records": num_documents + num_quarantined,
        "documents": num_documents,
        "quarantined": num_quarantined,
        "kept": kept,
        "dropped": dropped,
        "quarantine": quarantined,
        "sources": {
            name: {"records": read[name], "quarantined": lost.get(name, 0), "damaged": damaged.get(name, 0)}
            | {label: counts.get(name, 0) for label, counts in by_label.items()}
            for name in read
        },
    }


def _sum_by(name: str, groups: Sequence[Row], counted: str = "count") -> dict[str, int]:
    """Counts of the groups by the value of one of their columns, sorted; without those that are 0."""
    sums: dict[str, int] = {}
    for row in groups:
        sums[row[name]] = sums.get(row[name], 0) + row[counted]
    return {value: count for value, count in sorted(sums.items()) if count}


def _hash() -> Column:
    return F.xxhash64("doc_id", "content_hash")


def compute_checksum() -> Column:
    """Xor over ids and content hashes; null without rows."""
    return F.bit_xor(_hash())
