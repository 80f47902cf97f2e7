"""A table of sequences -> the numbers of `Content`, by two Spark jobs. Only small columns are read: no token,
no text.

What the driver holds grows with sources x splits, not with the table. The second job groups the segments by
document, one shuffle of a doc_id and a number each: a document that is cut lies in several sequences.
"""

from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.dataset.report.content import FULL, Documents, Sequences, sum_by


class RowCounts(NamedTuple):
    """`lengths` and `fills` of `Content`."""

    lengths: dict[tuple[str, int], Sequences]
    fills: dict[tuple[str, int], int]


def count_rows(sequences: DataFrame, sequence_length: int) -> RowCounts:
    """Sequences, tokens and targets by split and length."""
    tenths = F.least(F.floor(F.col("num_tokens") * FULL / sequence_length), F.lit(FULL)).cast("int")
    keyed = sequences.select(
        "split", count_bits("num_tokens").alias("bits"), tenths.alias("tenths"), "num_tokens", "num_targets"
    )
    groups = (
        keyed.groupBy("split", "bits", "tenths")
        .agg(F.count("*").alias("n"), F.sum("num_tokens").alias("t"), F.sum("num_targets").alias("targets"))
        .collect()
    )
    lengths = sum_by(((row.split, row.bits), Sequences(row.n, row.t, row.targets)) for row in groups)
    fills: dict[tuple[str, int], int] = {}
    for row in groups:
        fills[row.split, row.tenths] = fills.get((row.split, row.tenths), 0) + row.n
    return RowCounts(lengths, fills)


def count_documents(sequences: DataFrame) -> dict[tuple[str, str, int], Documents]:
    """`documents` of `Content`."""
    pieces = sequences.select("split", "source", F.explode("segments").alias("piece"))
    whole = (
        pieces.groupBy("piece.doc_id")
        .agg(
            F.first("split").alias("split"),  # a document has one split and one source
            F.first("source").alias("source"),
            F.sum("piece.num_tokens").alias("tokens"),
            F.count("*").alias("segments"),
        )
        .withColumn("bits", count_bits("tokens"))
    )
    groups = (
        whole.groupBy("split", "source", "bits")
        .agg(F.count("*").alias("n"), F.sum("tokens").alias("t"), F.sum("segments").alias("segments"))
        .collect()
    )
    return {(row.split, row.source, row.bits): Documents(row.n, row.t, row.segments) for row in groups}


def count_bits(column: str) -> Column:
    """Bits of a number of at least 1, as int.bit_length."""
    return F.length(F.bin(F.col(column).cast("long")))
