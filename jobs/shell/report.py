"""The report of a corpus as files: `corpus.report` after the stage, `distributary corpus --report` later."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter

from jobs.shell.display import console
from jobs.shell.plan import Outcome
from jobs.shell.progress import show_progress
from jobs.shell.redaction import redact
from jobs.shell.settings import AbsolutePath, Settings, TablePlace
from pipelines.paths import absolute
from pipelines.stores import configure

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ReportFile = Annotated[
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
    """Write the page about the tables of `config`, and its numbers, and print its place.

    Raises ValueError if the tables are not there or were not made together, or another file is at its place.
    """
    from pipelines.spark import session

    dataset = settings.tree["dataset"]
    sequences = TypeAdapter(TablePlace).validate_python(dataset["sequences"])
    tokenizers = TypeAdapter(AbsolutePath).validate_python(dataset["tokenizers"])
    place = absolute(file)
    _require_place(config, place)
    write_report(session("distributary report", config.spark), config, place, sequences, tokenizers)
    console.print(redact(f"report: {place}"), markup=False)


def _require_place(config: Any, place: str) -> None:
    from pipelines.corpus.report.file import require_file

    configure(config.storage)
    require_file(place)


def add_report(config: Any, run: Callable[[], Outcome]) -> Outcome:
    """Run the stage; its outcome with the place of its report, written now unless it is there.

    So a stage that was killed before its report, or got `corpus.report` later, writes it in the next run.
    Raises ValueError before the stage runs if another file is at the place.
    """
    if config.report is None:
        return run()
    _require_place(config, config.report)
    outcome = run()
    if not _is_current(config):
        from pipelines.spark import session

        with show_progress(outcome.stage) as progress:
            progress.phase("writing the report")
            write_report(session(f"distributary {outcome.stage}", config.spark), config, config.report)
    return replace(outcome, facts={**outcome.facts, "report": config.report})


def _is_current(config: Any) -> bool:
    """Whether the page and its numbers are there, about the newest documents, and what the setting
    `report_tokenizer` gives."""
    from pipelines.corpus.report.file import read_report
    from pipelines.corpus.report.numbers import are_settled
    from pipelines.pin import pin

    documents = pin(config.documents)
    report = read_report(config.report, documents) if documents else None
    return report is not None and are_settled(report.numbers, config.report_tokenizer)


def write_report(
    spark: "SparkSession", config: Any, place: str, sequences: str | None = None, tokenizers: str = ""
) -> None:
    """`sequences`, and the folder of their tokenizers: None = they are not looked at, because the stage that
    writes them comes later."""
    from pipelines.corpus.report import file
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
    file.write_report(place, render(content), write_numbers(content, config.report_tokenizer))
