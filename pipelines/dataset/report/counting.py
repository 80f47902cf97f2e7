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
    bits = count_bits(F.col("num_tokens"))
    names = {"num_tokens": "tokens", "num_targets": "targets", "num_continued": "continued"}
    groups = (
        sequences.select("split", bits.alias("bits"), tenths.alias("tenths"), *names)
        .groupBy("split", "bits", "tenths")
        .agg(F.count("*").alias("n"), *(F.sum(name).alias(short) for name, short in names.items()))
        .collect()
    )
    lengths = sum_by(
        ((row.split, row.bits), Sequences(row.n, row.tokens, row.targets, row.continued)) for row in groups
    )
    fills: dict[tuple[str, int], int] = {}
    for row in groups:
        fills[row.split, row.tenths] = fills.get((row.split, row.tenths), 0) + row.n
    return RowCounts(lengths, fills)


def count_documents(sequences: DataFrame) -> dict[tuple[str, str, int], Documents]:
    """`documents` of `Content`. What was cut off a sequence is of its first document: only a sequence of one
    document is cut."""
    piece = F.posexplode("segments").alias("place", "piece")
    cut = F.when(F.col("place") == 0, F.col("num_cut_tokens")).otherwise(0)
    whole = (
        sequences.select("split", "source", "num_cut_tokens", piece)
        .groupBy("piece.doc_id")
        .agg(
            F.first("split").alias("split"),  # a document has one split and one source
            F.first("source").alias("source"),
            F.sum("piece.num_tokens").alias("tokens"),
            F.count("*").alias("segments"),
            F.sum(cut).alias("cut"),
        )
        .withColumn("bits", count_bits(F.col("tokens") + F.col("cut")))
    )
    groups = (
        whole.groupBy("split", "source", "bits")
        .agg(F.count("*").alias("n"), *(F.sum(name).alias(name) for name in ("tokens", "segments", "cut")))
        .collect()
    )
    return {
        (row.split, row.source, row.bits): Documents(row.n, row.tokens, row.segments, row.cut)
        for row in groups
    }


def count_bits(number: Column) -> Column:
    """Bits of a number of at least 1, as int.bit_length."""
    return F.length(F.bin(number.cast("long")))
