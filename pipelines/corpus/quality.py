"""Rules that label documents; they delete nothing.

A rule is a function of columns that is true for a document to drop, and is named for what it drops.
`drop_reason` is the name of the first rule that a document fails.
"""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.decontamination import CONTAMINATED, Decontamination
from pipelines.corpus.rules import Rules

EXACT_DUPLICATE = "exact_duplicate"
"""The drop_reason of copies."""


def label_quality(documents: DataFrame, rules: Rules) -> DataFrame:
    """Set drop_reason to the first rule a document fails; null = kept.

    Needs num_chars, split, duplicate_of and failed_rule.
    """
    return documents.withColumn("drop_reason", find_drop_reason(rules, F.col("failed_rule")))


def find_drop_reason(rules: Rules, failed_rule: Column) -> Column:
    """The first rule that a row fails: its size, then failed_rule (contamination, language, a preset, a word
    list), then being a copy; null = kept.

    A text too short to measure says so instead of failing some preset. Copies come last: they share all
    signals with the document that they copy, so it is dropped with them.
    """
    copied = exact_duplicate(F.col("duplicate_of"), F.col("split"), rules.drop_duplicates_from)
    return F.coalesce(
        F.when(empty(F.col("num_chars")), F.lit("empty")),
        F.when(too_short(F.col("num_chars"), rules.min_chars), F.lit("too_short")),
        failed_rule,
        F.when(copied, F.lit(EXACT_DUPLICATE)),
    )


def find_failed_rule(rules: Rules, signals: Mapping[str, Column]) -> Column:
    """`language`, or the name of the first rule of the presets and word lists that the signals break; null =
    none, also where a signal is null (no text). `signals` has language and language_score, too."""
    failed = [
        F.when(
            signals[limit.signal] < limit.threshold
            if limit.is_minimum
            else signals[limit.signal] > limit.threshold,
            F.lit(limit.rule),
        )
        for limit in rules.limits
    ]
    if rules.languages:
        dropped = other_language(signals["language"], signals["language_score"], rules)
        failed.insert(0, F.when(dropped, F.lit("language")))
    return F.coalesce(*failed, F.lit(None).cast("string"))


def label_rules(positions: DataFrame, rules: Rules) -> DataFrame:
    """Set failed_rule to the first rule of the presets and word lists that a position fails; null = none.

    Needs signals, the array of `rules.signals`, language and language_score.
    """
    signals = {name: F.expr(f"signals[{place}]") for place, name in enumerate(rules.signals)}
    signals |= {name: F.col(name) for name in ("language", "language_score")}
    return positions.withColumn("failed_rule", find_failed_rule(rules, signals))


def label_contamination(positions: DataFrame, settings: Decontamination) -> DataFrame:
    """Set failed_rule to contaminated where a position has more of the evaluation sets than it may.

    It goes before the rules that the position fails: then every contaminated document says so, and stays
    dropped whatever the other limits are. Needs exceeds, split and failed_rule.
    """
    if not settings.drops:
        return positions
    is_dropped = F.col("exceeds") & F.col("split").isin(*settings.drop_from)
    reason = F.when(is_dropped, F.lit(CONTAMINATED)).otherwise(F.col("failed_rule"))
    return positions.withColumn("failed_rule", reason)


def empty(num_chars: Column) -> Column:
    return num_chars == 0


def too_short(num_chars: Column, min_chars: int) -> Column:
    return num_chars < min_chars


def other_language(language: Column, score: Column, rules: Rules) -> Column:
    # zh keeps zh-Hans, zh-Hant and zh
    is_asked = language.isin(*rules.languages) | F.split_part(language, F.lit("-"), F.lit(1)).isin(
        *rules.languages
    )
    return ~is_asked | (score < rules.min_language_score)


def exact_duplicate(duplicate_of: Column, split: Column, drop_from: tuple[str, ...]) -> Column:
    return duplicate_of.isNotNull() & split.isin(*drop_from)
