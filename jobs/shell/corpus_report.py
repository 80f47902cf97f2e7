"""The report of a corpus: `corpus.report` after the stage, `distributary corpus --report` later."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter

from jobs.shell.plan import Outcome
from jobs.shell.report import StageReport, run_with_report, write_to
from jobs.shell.settings import AbsolutePath, Settings, TablePlace

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CorpusReport = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write an HTML page about the tables that are there: what each rule dropped, with examples; its "
        "numbers go to a .json beside it. Nothing else is changed.",
    ),
]
"""An option of the corpus command."""


def show_report(config: Any, settings: Settings, file: str) -> None:
    """Write the page about the tables of `config`, and its numbers, and print its place; see `write_to`."""
    dataset = settings.tree["dataset"]
    sequences = TypeAdapter(TablePlace).validate_python(dataset["sequences"])
    tokenizers = TypeAdapter(AbsolutePath).validate_python(dataset["tokenizers"])
    write = partial(write_report, sequences=sequences, tokenizers=tokenizers)
    write_to(config, file, REPORT._replace(write=write))


def add_report(config: Any, run: Callable[[], Outcome]) -> Outcome:
    """Run the stage and write its report; see `run_with_report`."""
    return run_with_report(config, run, REPORT)


def is_current(config: Any) -> bool:
    """Whether the page and its numbers are there, about the newest documents, and what the setting
    `report_tokenizer` gives."""
    from pipelines.corpus.report.numbers import are_settled
    from pipelines.pin import pin
    from pipelines.report import read_report

    documents = pin(config.documents)
    report = read_report(config.report, documents) if documents else None
    return report is not None and are_settled(report.numbers, config.report_tokenizer)


def write_report(
    spark: "SparkSession", config: Any, place: str, sequences: str | None = None, tokenizers: str = ""
) -> None:
    """`sequences`, and the folder of their tokenizers: None = they are not looked at, because the stage that
    writes them comes later."""
    from pipelines import report as files
    from pipelines.corpus.report.numbers import write_numbers
    from pipelines.corpus.report.page import render
    from pipelines.corpus.report.reading import Places, read_content
    from pipelines.dataset.token_counter import find_counter
    from pipelines.pin import pin

    places = Places(
        documents=config.documents,
        quarantine=config.quarantine,
        signals=config.signals,
        duplicates=config.duplicates,
        sequences=sequences,
    )
    counter = find_counter(
        config.report_tokenizer, pin(config.documents), pin(sequences) if sequences else None, tokenizers
    )
    content = read_content(spark, places, config.rules, config.tracking.experiment, counter)
    files.write_report(place, render(content), write_numbers(content, config.report_tokenizer))


REPORT = StageReport("documents", is_current, write_report)
