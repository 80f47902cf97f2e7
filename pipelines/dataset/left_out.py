"""Documents that were left out of the sequences: why, and how many there may be. If most documents cannot be
learned from, a template or the names of roles are wrong, and the stage fails instead of ending empty."""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField

from pipelines.dataset.remarks import REMARK_COLUMNS, describe_reasons

MAX_REASONS, MAX_IDS = 10, 10
"""Reasons that a commit keeps, the most frequent ones, and documents of each."""


def remark_fields() -> list[StructField]:
    return [StructField(name, StringType()) for name in REMARK_COLUMNS]


def find_reasons(packed: DataFrame) -> list[dict[str, Any]]:
    """Why documents were left out: reason (that of the first of them), number of documents, the first of
    their ids. The most frequent ones first; reasons that differ in numbers only are one."""
    kind = F.regexp_replace("problem", r"\d[\d,]*", "0").alias("kind")
    left_out = packed.where("problem IS NOT NULL").select("doc_id", "problem", kind)
    first = Window.partitionBy("kind").orderBy("doc_id")
    everyone = Window.partitionBy("kind")
    rows = (
        left_out.withColumns({"place": F.row_number().over(first), "documents": F.count("*").over(everyone)})
        .where(F.col("place") <= MAX_IDS)
        .groupBy("kind", "documents")
        .agg(
            F.min_by("problem", "doc_id").alias("reason"),
            F.sort_array(F.collect_list("doc_id")).alias("doc_ids"),
        )
        .orderBy(F.desc("documents"), "kind")
        .limit(MAX_REASONS)
        .collect()
    )
    return [{name: row[name] for name in ("reason", "documents", "doc_ids")} for row in rows]


def require_few_left_out(
    num_left_out: int, num_documents: int, reasons: Sequence[dict[str, Any]], *, max_fraction: float
) -> None:
    """Raises ValueError, before anything is written, if more than max_fraction of the documents were left
    out."""
    if num_left_out <= max_fraction * num_documents:
        return
    raise ValueError(
        f"dataset: {num_left_out:,} of {num_documents:,} documents cannot be learned from, more than "
        f"dataset.max_left_out_fraction = {max_fraction:g}, and sequences were not written. "
        f"{describe_reasons(reasons)}; to accept the loss, raise the fraction"
    )
