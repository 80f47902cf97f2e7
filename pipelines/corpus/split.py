"""The split of a document: what its record says, otherwise by a hash of its content.

The hash makes the split a property of the content: it is the same in every run, order and partitioning, and
all copies within a source get the same split, so no copy leaks from train into validation or test.
"""

from collections.abc import Iterable
from functools import reduce
from hashlib import sha256
from itertools import accumulate

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.source import SPLITS, Source

SPLIT_ORDER = {"test": 0, "validation": 1, "train": 2}
"""Which of equal things stays: an evaluation text stays where it is, and train loses its copies."""
_DIGITS = 13  # hex digits; 52 bits are exact in a double


def label_splits(documents: DataFrame, sources: Iterable[Source]) -> DataFrame:
    """Fill `split` where it is null, by the shares of its source. Needs source and content_hash."""
    position = hash_fraction(F.col("content_hash"))
    by_hash = reduce(
        lambda otherwise, source: F.when(
            F.col("source") == source.name, choose_split(position, source.splits)
        ).otherwise(otherwise),
        sources,
        F.lit(None).cast("string"),
    )
    return documents.withColumn("split", F.coalesce("split", by_hash))


def hash_fraction(content_hash: Column) -> Column:
    """Uniform in [0, 1): the first 13 hex digits of sha256('split<US>' + content_hash), as a fraction.

    Hashed again, so that a sample chosen by the digits of content_hash still contains all splits.
    """
    digest = F.sha2(F.concat(F.lit("split\x1f"), content_hash).cast("binary"), 256)
    return F.conv(F.substring(digest, 1, _DIGITS), 16, 10).cast("double") / F.lit(float(16**_DIGITS))


def choose_split(position: Column, splits: dict[str, float]) -> Column:
    """The split whose share contains a position in [0, 1). Order of the shares: train, validation, test."""
    *bounds, last = _list_bounds(splits)
    split = F.lit(last[0])  # also takes what rounding leaves of the sum
    for name, upper in reversed(bounds):
        split = F.when(position < upper, F.lit(name)).otherwise(split)
    return split


def find_split(content_hash: str, splits: dict[str, float]) -> str:
    """The split that `label_splits` gives a content, where texts are read."""
    digits = sha256(f"split\x1f{content_hash}".encode()).hexdigest()[:_DIGITS]
    position = int(digits, 16) / 16**_DIGITS
    *bounds, last = _list_bounds(splits)
    return next((name for name, upper in bounds if position < upper), last[0])


def _list_bounds(splits: dict[str, float]) -> list[tuple[str, float]]:
    """(split, where its share ends), in order, of the splits that have a share."""
    names = [name for name in SPLITS if splits.get(name, 0.0) > 0]
    return list(zip(names, accumulate(splits[name] for name in names), strict=True))
