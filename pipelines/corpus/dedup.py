"""Exact copies and repeated keys: an aggregation finds the first member of each group, and a join labels the
others.

Rows here are positions: ids and sizes, no texts. A corpus shuffles about 60 bytes a document for each of the
two, whatever its texts are. An aggregation combines rows before the shuffle, so a text that occurs a million
times is one row per partition; a window function would sort all of them in one task. Only groups of two or
more are joined back.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.split import SPLIT_ORDER


def find_survivors(documents: DataFrame, protected_sources: Sequence[str] = ()) -> DataFrame:
    """content_hash and survivor_id of each text that occurs more than once; an empty text is none.

    The survivor is the copy in test, else in validation, else in train; among several the one with the
    smallest doc_id. So an evaluation text stays where it is, and its copies in train are the duplicates.
    A copy in a protected source goes before all others. Compares all sources. Needs doc_id, content_hash,
    num_chars, split; with protected sources also source.
    """
    priority = F.create_map(*[F.lit(part) for item in SPLIT_ORDER.items() for part in item])[F.col("split")]
    if protected_sources:
        priority = F.when(F.col("source").isin(*protected_sources), -1).otherwise(priority)
    return (
        documents.where("num_chars > 0")
        .groupBy("content_hash")
        .agg(
            F.min(F.struct(priority.alias("priority"), "doc_id")).alias("survivor"),
            F.count("*").alias("num_copies"),
        )
        .where("num_copies > 1")
        .select("content_hash", F.col("survivor.doc_id").alias("survivor_id"))
    )


def find_few_survivors(documents: pa.Table, protected_sources: Sequence[str] = ()) -> pa.Table:
    """The same of rows that the driver holds."""
    rows = documents.filter(pc.greater(documents["num_chars"], 0))
    places = pc.index_in(rows["split"], value_set=pa.array(SPLIT_ORDER, pa.string()))
    priority = pa.array(SPLIT_ORDER.values(), pa.int32()).take(places.combine_chunks())
    is_protected = pc.is_in(rows["source"], value_set=pa.array(protected_sources, pa.string()))
    rows = rows.append_column("priority", pc.if_else(is_protected, -1, priority))
    ordered = rows.sort_by([("priority", "ascending"), ("doc_id", "ascending")])
    groups = ordered.group_by("content_hash", use_threads=False)  # or else there is no first one
    found = groups.aggregate([("doc_id", "first"), ("doc_id", "count")])
    found = found.filter(pc.greater(found["doc_id_count"], 1))
    return pa.table({"content_hash": found["content_hash"], "survivor_id": found["doc_id_first"]})


def label_copies(documents: DataFrame, survivors: DataFrame) -> DataFrame:
    """The documents that are copies of a survivor, with its doc_id as duplicate_of. `survivors` are those of
    `find_survivors`."""
    copies = documents.join(survivors, "content_hash").where("survivor_id != doc_id")
    return copies.withColumnRenamed("survivor_id", "duplicate_of")


def label_few_copies(documents: pa.Table, survivors: pa.Table) -> pa.Table:
    """The same of rows that the driver holds."""
    hashes = survivors["content_hash"].combine_chunks()
    places = pc.index_in(documents["content_hash"], value_set=hashes).combine_chunks()
    labelled = documents.append_column("duplicate_of", survivors["survivor_id"].combine_chunks().take(places))
    return labelled.filter(pc.not_equal(labelled["duplicate_of"], labelled["doc_id"]))


def leave_out_copies(documents: DataFrame, survivors: DataFrame) -> DataFrame:
    """The documents that are copies of nothing."""
    is_first = F.col("survivor_id").isNull() | (F.col("survivor_id") == F.col("doc_id"))
    return documents.join(survivors, "content_hash", "left").where(is_first).drop("survivor_id")


def find_first_records(documents: DataFrame) -> DataFrame:
    """doc_id and first, a struct of file and offset, of each key that several records of a source have.

    First means smallest by (file, offset). Documents without a key never repeat: their id is their position.
    Needs doc_id, has_key, file, offset.
    """
    return (
        documents.where("has_key")
        .groupBy("doc_id")
        .agg(F.min(F.struct("file", "offset")).alias("first"), F.count("*").alias("num_records"))
        .where("num_records > 1")
        .select("doc_id", "first")
    )


def label_repeated_keys(documents: DataFrame, first_records: DataFrame) -> DataFrame:
    """The documents whose key an earlier record has, with its position as first_file and first_offset.

    `first_records` are those of `find_first_records`.
    """
    is_later = F.col("first") != F.struct("file", "offset")
    return (
        documents.join(first_records, "doc_id")
        .where(is_later)
        .withColumns({"first_file": F.col("first.file"), "first_offset": F.col("first.offset")})
        .drop("first")
    )


def leave_out_repeated_keys(documents: DataFrame, first_records: DataFrame) -> DataFrame:
    """The documents whose key no earlier record has."""
    is_first = F.col("first").isNull() | (F.col("first") == F.struct("file", "offset"))
    return documents.join(first_records, "doc_id", "left").where(is_first).drop("first")
