"""Exact copies and repeated keys: an aggregation finds the first member of each group, and a join labels the
others.

An aggregation combines rows before the shuffle, so a text that occurs a million times is one row per
partition; a window function would sort all of them in one task. Only groups of two or more are joined back.
They are usually few enough for Spark to broadcast, and then the texts are not shuffled.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

_PRIORITY = {"test": 0, "validation": 1, "train": 2}


def label_exact_duplicates(documents: DataFrame) -> DataFrame:
    """Set duplicate_of to the doc_id of the surviving copy; null for the survivor, for a text without copies
    and for an empty text.

    The survivor is the copy in test, else in validation, else in train; among several the one with the
    smallest doc_id. So an evaluation text stays where it is, and its copies in train are the duplicates.
    Compares all sources. Needs doc_id, content_hash, num_chars, split.
    """
    priority = F.create_map(*[F.lit(part) for item in _PRIORITY.items() for part in item])[F.col("split")]
    survivors = (
        documents.where("num_chars > 0")
        .groupBy("content_hash")
        .agg(
            F.min(F.struct(priority.alias("priority"), "doc_id")).alias("survivor"),
            F.count("*").alias("num_copies"),
        )
        .where("num_copies > 1")
        .select("content_hash", F.col("survivor.doc_id").alias("survivor_id"))
    )
    is_copy = F.col("survivor_id") != F.col("doc_id")
    labelled = documents.join(survivors, "content_hash", "left").withColumn(
        "duplicate_of", F.when(is_copy, F.col("survivor_id"))
    )
    return labelled.drop("survivor_id")


def label_repeated_keys(documents: DataFrame) -> DataFrame:
    """Set first_file and first_offset to the first record of the source with the same key; null for that
    first record itself.

    First means smallest by (file, offset). Documents without a key never repeat: their id is their position.
    Needs doc_id, key, file, offset.
    """
    repeated = (
        documents.where("key IS NOT NULL")
        .groupBy("doc_id")
        .agg(F.min(F.struct("file", "offset")).alias("first"), F.count("*").alias("num_records"))
        .where("num_records > 1")
        .select("doc_id", "first")
    )
    is_later = F.col("first") != F.struct("file", "offset")
    labelled = documents.join(repeated, "doc_id", "left")
    return labelled.withColumns(
        {
            "first_file": F.when(is_later, F.col("first.file")),
            "first_offset": F.when(is_later, F.col("first.offset")),
        }
    ).drop("first")
