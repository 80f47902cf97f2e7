"""Rules that label: each says true where a text is to be dropped, and nothing is deleted.

A rule is a function of columns, named for what it drops; `drop_reason` is the name of the first one that a document fails.
"""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.source import SPLITS


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a document must be, to be kept."""

    min_chars: int = 1
    """Code points of the shortest text that is kept; an empty text is dropped even with 0."""
    drop_duplicates_from: tuple[str, ...] = ("train", "validation")
    """Splits that lose their exact copies. Without test, a published test set stays whole while train loses what is in it."""

    def __post_init__(self) -> None:
        if self.min_chars < 0:
            raise ValueError(f"min_chars must be at least 0 code points, got {self.min_chars}")
        if unknown := sorted(set(self.drop_duplicates_from) - set(SPLITS)):
            raise ValueError(
                f"drop_duplicates_from must be among {', '.join(SPLITS)}, got {', '.join(unknown)}"
            )


def label_quality(documents: DataFrame, rules: Rules) -> DataFrame:
    """Set drop_reason to the first rule a document fails; null = kept. Needs num_chars, split, duplicate_of."""
    reasons = {
        "empty": empty(F.col("num_chars")),
        "too_short": too_short(F.col("num_chars"), rules.min_chars),
        "exact_duplicate": exact_duplicate(F.col("duplicate_of"), F.col("split"), rules.drop_duplicates_from),
    }
    return documents.withColumn(
        "drop_reason", F.coalesce(*[F.when(fails, F.lit(name)) for name, fails in reasons.items()])
    )


def empty(num_chars: Column) -> Column:
    return num_chars == 0


def too_short(num_chars: Column, min_chars: int) -> Column:
    return num_chars < min_chars


def exact_duplicate(duplicate_of: Column, split: Column, drop_from: tuple[str, ...]) -> Column:
    return duplicate_of.isNotNull() & split.isin(*drop_from)
