"""What other limits would keep: the decision again, over signals that are already there.

Reads the tables documents (without text), signals and word_matches. Cost: one join by doc_id for each of the
two, no text, no signal computed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from pipelines.corpus.decontamination import CONTAMINATED
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.quality import find_drop_reason, find_failed_rule
from pipelines.corpus.rules import Rules


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many documents and characters have one outcome, under the rules as they are and as changed."""

    reason: str | None
    """Rule that drops them; None = kept."""
    num_documents: int = 0
    num_chars: int = 0
    changed_documents: int = 0
    changed_chars: int = 0


def compare_rules(
    documents: DataFrame,
    signals: DataFrame | None,
    rules: Rules,
    changed: Rules,
    word_matches: DataFrame | None = None,
) -> list[Outcome]:
    """Documents and characters that are kept, and that each rule drops, now and with the changed rules.

    What is kept comes first, then the rules by name. `documents` are rows of the table that `rules` made, and
    so are `signals` if the rules have presets or languages, and `word_matches` if they have word lists.
    Raises ValueError if `changed` looks at what was not measured.
    """
    _require_comparable(rules, changed)
    if missing := sorted(set(changed.signals) - set(rules.signals)):
        raise ValueError(
            f"{', '.join(missing)} were not measured; add their preset to corpus.rules.presets and run corpus"
        )
    rows = documents.select("doc_id", "num_chars", "split", "duplicate_of", "drop_reason")
    if signals is not None:
        _require_measured(signals, changed)
        rows = rows.join(signals, "doc_id")
    if word_matches is not None:
        rows = rows.join(_spread_matches(word_matches, rules), "doc_id", "left")
    languages = ("language", "language_score") if signals is not None else ()
    columns = {name: F.col(f"`{name}`") for name in (*rules.signals, *languages)}
    # A near duplicate has duplicate_of too, but it is no copy. It stays one whatever the limits are: finding
    # other near duplicates would mean reading texts.
    near = F.when(F.col("drop_reason") == NEAR_DUPLICATE, F.lit(NEAR_DUPLICATE))
    # Contamination does not depend on these limits, and goes before them (`label_contamination`).
    contaminated = F.when(F.col("drop_reason") == CONTAMINATED, F.lit(CONTAMINATED))
    now, then = (
        find_drop_reason(each, F.coalesce(contaminated, find_failed_rule(each, columns), near))
        for each in (rules, changed)
    )
    decided = rows.select("num_chars", now.alias("now"), then.alias("then"))
    groups = decided.groupBy("now", "then").agg(
        F.count("*").alias("num_documents"), F.sum("num_chars").alias("num_chars")
    )
    return _add_up(groups.collect())


def _require_comparable(rules: Rules, changed: Rules) -> None:
    if changed.min_chars < rules.min_chars:
        raise ValueError(
            f"min_chars must be at least corpus.rules.min_chars = {rules.min_chars}, because shorter texts "
            f"were not compared with others, got {changed.min_chars}; change the key and run corpus"
        )
    if changed.min_language_score != rules.min_language_score and not rules.languages:
        raise ValueError(
            "min_language_score needs languages: name some in corpus.rules.languages and run corpus"
        )


def _require_measured(signals: DataFrame, rules: Rules) -> None:
    """Raises ValueError if the rules look at a signal that no row has: the rows were made by other rules."""
    names = rules.preset_signals
    counts = signals.agg(F.count("*"), *(F.count(F.col(f"`{name}`")) for name in names)).collect()[0]
    if counts[0] and (missing := [name for name, found in zip(names, counts[1:], strict=True) if not found]):
        raise ValueError(f"{', '.join(missing)} were not measured; run: distributary corpus")


def _spread_matches(word_matches: DataFrame, rules: Rules) -> DataFrame:
    """doc_id and the signals of each word list; null = no match, which breaks no limit."""
    columns = []
    for each in rules.word_lists:
        for name, column in zip(each.signals, ("num_matches", "fraction"), strict=True):
            found = F.when(F.col("word_list") == each.name, F.col(column).cast("double"))
            columns.append(F.max(found).alias(name))
    return word_matches.groupBy("doc_id").agg(*columns)


def _add_up(groups: Iterable[Row]) -> list[Outcome]:
    sums: dict[str | None, list[int]] = {None: [0, 0, 0, 0]}
    for group in groups:
        for reason, place in ((group.now, 0), (group.then, 2)):
            found = sums.setdefault(reason, [0, 0, 0, 0])
            found[place] += group.num_documents
            found[place + 1] += group.num_chars
    ordered = sorted(sums.items(), key=lambda item: (item[0] is not None, item[0] or ""))
    return [Outcome(reason, *found) for reason, found in ordered]
