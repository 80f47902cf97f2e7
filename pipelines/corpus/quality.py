"""Rules that label documents; they delete nothing.

A rule is a function of columns that is true for a document to drop, and is named for what it drops.
`drop_reason` is the name of the first rule that a document fails.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.rules import Rules


def label_quality(documents: DataFrame, rules: Rules) -> DataFrame:
    """Set drop_reason to the first rule a document fails; null = kept.

    Needs num_chars, split, duplicate_of; failed_rule, if there is one, goes before being a copy.
    """
    reasons = {
        "empty": empty(F.col("num_chars")),
        "too_short": too_short(F.col("num_chars"), rules.min_chars),
        "exact_duplicate": exact_duplicate(F.col("duplicate_of"), F.col("split"), rules.drop_duplicates_from),
    }
    *first, copied = [F.when(fails, F.lit(name)) for name, fails in reasons.items()]
    failed_rule = [F.col("failed_rule")] if "failed_rule" in documents.columns else []
    return documents.withColumn("drop_reason", F.coalesce(*first, *failed_rule, copied))


def empty(num_chars: Column) -> Column:
    return num_chars == 0


def too_short(num_chars: Column, min_chars: int) -> Column:
    return num_chars < min_chars


def exact_duplicate(duplicate_of: Column, split: Column, drop_from: tuple[str, ...]) -> Column:
    return duplicate_of.isNotNull() & split.isin(*drop_from)
