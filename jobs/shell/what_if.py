"""`distributary corpus --what-if RULE=THRESHOLD`: what other limits would keep, without reading a text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.shell.display import console
from jobs.shell.plan import require_table
from pipelines.stores import configure

if TYPE_CHECKING:
    from pipelines.corpus.what_if import Outcome

WhatIf = Annotated[
    list[str] | None,
    typer.Option(
        "--what-if",
        metavar="RULE=THRESHOLD",
        help="Show what another limit of a rule would keep, by documents and characters; change nothing. "
        "RULE belongs to a preset or a word list (null switches it off), or is min_chars or "
        "min_language_score. May be repeated.",
    ),
]
"""An option of the corpus command."""


def show_what_if(config: Any, changes: Sequence[str]) -> None:
    """Print what the rules of `config` keep, and what they would keep with the changes.

    Raises ValueError if the tables are not there or were not made together.
    """
    from pipelines.spark import session

    configure(config.storage)
    rules = config.rules.change(dict(map(_parse, changes)))
    _require_tables(config)
    from pipelines.corpus.what_if import compare_rules
    from pipelines.tables import DOCUMENTS, SIGNALS, WORD_MATCHES

    spark = session("distributary what-if", config.spark)
    documents = DOCUMENTS.read(spark, config.documents)
    signals = SIGNALS.read(spark, config.signals) if config.rules.are_measured else None
    matches = WORD_MATCHES.read(spark, config.word_matches) if config.rules.word_lists else None
    display_comparison(compare_rules(documents, signals, config.rules, rules, matches))


def display_comparison(outcomes: "Sequence[Outcome]") -> None:
    """One line for what is kept and for each rule: documents and characters now, and with the changes."""
    width = max(len(outcome.reason or "kept") for outcome in outcomes)
    headers = ("documents", "characters", "documents then", "characters then")
    console.print(" " * width + "".join(f"{header:>18}" for header in headers), markup=False)
    for outcome in outcomes:
        numbers = (outcome.num_documents, outcome.num_chars, outcome.changed_documents, outcome.changed_chars)
        name = (outcome.reason or "kept").ljust(width)
        console.print(name + "".join(f"{number:>18,}" for number in numbers), markup=False)


def _parse(change: str) -> tuple[str, float | None]:
    rule, _, value = change.partition("=")
    try:
        return rule, None if value == "null" else float(value)
    except ValueError:
        raise ValueError(
            f"--what-if takes RULE=THRESHOLD, such as gopher_quality@paper/min_num_words=20; got {change!r}"
        ) from None


def _require_tables(config: Any) -> None:
    from pipelines.pin import pin

    documents = require_table(config.documents, "documents", "corpus")
    for place in config.measured:
        measured = pin(place)
        if measured is None or documents.fingerprint != measured.fingerprint:
            raise ValueError(
                f"{place} was not made together with {config.documents}; run: distributary corpus"
            )
