"""train, validation or test: as the record says, else by a hash of the text.

The hash makes the split a property of the text: the same in every run, order and partitioning, and one for all copies
of a text within a source, so that no copy leaks from train into validation or test.
"""

from collections.abc import Iterable
from functools import reduce
from itertools import accumulate

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.source import SPLITS, Source

_DIGITS = 13  # hex digits; 52 bits are exact in a double


def label_splits(documents: DataFrame, sources: Iterable[Source]) -> DataFrame:
    """Fill `split` where it is null, by the shares of the document's source. Needs source and content_hash."""
    position = hash_fraction(F.col("content_hash"))
    by_hash = reduce(
        lambda otherwise, source: F.when(
            F.col("source") == source.name, share_of(position, source.splits)
        ).otherwise(otherwise),
        sources,
        F.lit(None).cast("string"),
    )
    return documents.withColumn("split", F.coalesce("split", by_hash))


def hash_fraction(content_hash: Column) -> Column:
    """Uniform in [0, 1): the first 13 hex digits of sha256('split<US>' + content_hash), as a fraction.

    Hashed again, so that whoever samples by the digits of content_hash gets all splits.
    """
    digest = F.sha2(F.concat(F.lit("split\x1f"), content_hash).cast("binary"), 256)
    return F.conv(F.substring(digest, 1, _DIGITS), 16, 10).cast("double") / F.lit(float(16**_DIGITS))


def share_of(position: Column, splits: dict[str, float]) -> Column:
    """The split into whose share a position in [0, 1) falls; shares lie side by side in the order train, validation, test."""
    names = [name for name in SPLITS if splits.get(name, 0.0) > 0]
    uppers = list(accumulate(splits[name] for name in names))
    split = F.lit(names[-1])  # takes what rounding leaves of the sum
    for name, upper in reversed(list(zip(names, uppers, strict=True))[:-1]):
        split = F.when(position < upper, F.lit(name)).otherwise(split)
    return split
