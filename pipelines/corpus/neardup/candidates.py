"""Documents and their buckets -> candidate pairs.

Rows of 24 bytes are shuffled, one per document and band: bucket, rank, vertex. No text, no id. A bucket is
never compared with itself as a whole: its first `max_leaders` members, in the order of survival, are paired
with all others. So a bucket costs at most max_leaders pairs per member, a bucket up to that size is compared
completely, and the member that is to survive is always among the leaders.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.corpus.neardup.presets import NearDuplicates
from pipelines.delta import Table

_PRIORITY = {"test": 0, "validation": 1, "train": 2}
_RANK_BITS = 40
_REMOVABLE = 2 << (_RANK_BITS + 2)
"""Ranks from here on may be removed."""
ORDER_DIGITS = 20
MEMBERS = Table(
    name="near_duplicate_members",
    row="one document that is compared with the others",
    key=("doc_id",),
    ddl="""doc_id       STRING NOT NULL COMMENT 'as in documents',
           source       STRING NOT NULL COMMENT 'as in documents',
           file         STRING COMMENT 'as in documents',
           split        STRING NOT NULL COMMENT 'as in documents',
           num_chars    INT NOT NULL COMMENT 'as in documents',
           content_hash STRING NOT NULL COMMENT 'as in documents',
           task         INT COMMENT 'which reads its file; null = the document is in the table documents',
           slice        INT COMMENT 'of its file',
           offset       BIGINT COMMENT 'of its record',
           vertex       BIGINT NOT NULL COMMENT 'see rank_members',
           rank         BIGINT NOT NULL COMMENT 'see rank_members',
           `order`      STRING NOT NULL COMMENT 'see rank_members'""",
)
PAIRS = Table(
    name="near_duplicate_pairs",
    row="two documents that share a bucket",
    key=("a", "b"),
    checks={"in_order": "a < b"},
    ddl="""a           STRING NOT NULL COMMENT 'order of the document that survives rather',
           b           STRING NOT NULL COMMENT 'order of the other one',
           first       STRING NOT NULL COMMENT 'the smaller content_hash',
           second      STRING NOT NULL COMMENT 'the larger one',
           num_buckets INT NOT NULL COMMENT 'that hold both and have one as leader'""",
)


def rank_members(documents: DataFrame, settings: NearDuplicates) -> DataFrame:
    """The documents with vertex, rank and order.

    vertex: the first 60 bits of doc_id. Two documents may share one, which costs an exact check and changes
    no result. rank: the smaller one survives. order: rank and doc_id as a string that sorts alike. Needs
    doc_id, source, split, num_chars.
    """
    protected = F.col("source").isin(list(settings.protected_sources))
    kept = F.when(protected, 0).when(~F.col("split").isin(list(settings.drop_from)), 1).otherwise(2)
    priority = F.create_map(*[F.lit(part) for item in _PRIORITY.items() for part in item])[F.col("split")]
    length = F.col("num_chars").cast("bigint")
    by_policy = {
        "longest": F.lit(1 << 32) - length,
        "shortest": length,
        "smallest_id": F.lit(0).cast("bigint"),
    }[settings.survivor]
    group = (kept * 4 + priority).cast("bigint")
    ranked = documents.withColumns(
        {
            "vertex": F.conv(F.substring("doc_id", 1, 15), 16, 10).cast("bigint"),
            "rank": group * F.lit(1 << _RANK_BITS) + by_policy,
        }
    )
    return ranked.withColumn("order", F.format_string(f"%0{ORDER_DIGITS}d%s", "rank", "doc_id"))


def order_rows(rows: pa.Table, settings: NearDuplicates) -> pa.Array:
    """`order` of rows that the driver holds, as `rank_members` gives it."""
    protected = pc.is_in(rows["source"], value_set=pa.array(settings.protected_sources, pa.string()))
    is_dropped_from = pc.is_in(rows["split"], value_set=pa.array(settings.drop_from, pa.string()))
    splits = pc.index_in(rows["split"], value_set=pa.array(_PRIORITY, pa.string()))
    kept = np.where(_numbers(protected), 0, np.where(_numbers(is_dropped_from), 2, 1))
    lengths = _numbers(rows["num_chars"])
    by_policy = {"longest": (1 << 32) - lengths, "shortest": lengths, "smallest_id": 0 * lengths}
    ranks = (kept * 4 + _numbers(splits) << _RANK_BITS) + by_policy[settings.survivor]
    digits = pc.utf8_lpad(pa.array(ranks).cast(pa.string()), ORDER_DIGITS, "0")
    return pc.binary_join_element_wise(digits, rows["doc_id"].combine_chunks(), "")


def is_removable(order: Column) -> Column:
    """Whether the document at this place of the order may be removed at all."""
    return F.substring(order, 1, ORDER_DIGITS).cast("bigint") >= F.lit(_REMOVABLE)


def keep_removable(edges: pa.Table) -> pa.Table:
    """The edges whose b may be removed at all, as `is_removable` has it."""
    return edges.filter(pc.greater_equal(edges["b"], f"{_REMOVABLE:0{ORDER_DIGITS}d}"))


def find_doc_id(order: Column) -> Column:
    return F.substring(order, ORDER_DIGITS + 1, 64)


def spread_buckets(members: DataFrame, signatures: DataFrame, settings: NearDuplicates) -> DataFrame:
    """bucket, rank, vertex: one row per member and band. Within a scope, buckets of other sources or files
    are other buckets. Needs content_hash; of the signatures, content_hash and buckets."""
    scope = {"corpus": [], "source": ["source"], "file": ["source", "file"]}[settings.scope]
    rows = members.join(signatures.select("content_hash", "buckets"), "content_hash")
    rows = rows.select(F.explode("buckets").alias("bucket"), "rank", "vertex", *scope)
    bucket = F.xxhash64("bucket", *scope) if scope else F.col("bucket")
    return rows.select(bucket.alias("bucket"), "rank", "vertex")


def find_pairs(buckets: DataFrame, max_leaders: int) -> DataFrame:
    """a, b (vertices) and num_buckets, the number of buckets that hold both and have one as leader. One row a
    pair."""
    # Spark keeps the first rows of each bucket before the shuffle (WindowGroupLimit), so a bucket of a
    # million members is not sorted in one task.
    in_order = Window.partitionBy("bucket").orderBy("rank", "vertex")
    leaders = (
        buckets.withColumn("place", F.row_number().over(in_order))
        .where(F.col("place") <= max_leaders)
        .select("bucket", F.col("rank").alias("rank_a"), F.col("vertex").alias("a"))
    )
    is_later = (F.col("rank_a") < F.col("rank")) | (
        (F.col("rank_a") == F.col("rank")) & (F.col("a") < F.col("vertex"))
    )
    pairs = buckets.join(leaders, "bucket").where(is_later)
    return pairs.groupBy("a", F.col("vertex").alias("b")).agg(F.count("*").cast("int").alias("num_buckets"))


def count_crowded(buckets: DataFrame, max_leaders: int) -> int:
    """Buckets with more members than leaders: not all of their pairs were compared."""
    return buckets.groupBy("bucket").count().where(F.col("count") > max_leaders).count()


def _numbers(values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(values.to_numpy(), np.int64)


def name_pairs(pairs: DataFrame, members: DataFrame) -> DataFrame:
    """Pairs of vertices -> rows of PAIRS."""
    named = members.select("vertex", F.struct("order", "content_hash").alias("member"))
    ones, others = (named.toDF(end, f"member_{end}") for end in ("a", "b"))
    one, other = F.col("member_a"), F.col("member_b")
    both = pairs.join(ones, "a").join(others, "b").where(one["order"] != other["order"])
    return both.select(
        F.least(one["order"], other["order"]).alias("a"),
        F.greatest(one["order"], other["order"]).alias("b"),
        F.least(one["content_hash"], other["content_hash"]).alias("first"),
        F.greatest(one["content_hash"], other["content_hash"]).alias("second"),
        "num_buckets",
    )
