"""The report of a corpus as a file: `corpus.report` after the stage, `distributary corpus --report` later."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter

from jobs.shell.display import console
from jobs.shell.plan import Outcome
from jobs.shell.progress import show_progress
from jobs.shell.redaction import redact
from jobs.shell.settings import Settings, TablePlace
from pipelines.paths import absolute
from pipelines.stores import configure

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ReportFile = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write an HTML page about the tables that are there: what each rule dropped, with examples; "
        "change nothing else.",
    ),
]
"""An option of the corpus command."""


def show_report(config: Any, settings: Settings, file: str) -> None:
    """Write the page about the tables of `config` and print its place.

    Raises ValueError if the tables are not there or were not made together.
    """
    from pipelines.spark import session

    configure(config.storage)
    sequences = TypeAdapter(TablePlace).validate_python(settings.tree["dataset"]["sequences"])
    place = absolute(file)
    write_page(session("distributary report", config.spark), config, place, sequences)
    console.print(redact(f"report: {place}"), markup=False)


def add_report(config: Any, outcome: Outcome) -> Outcome:
    """The outcome of the stage with the place of its report, written now unless it is there.

    So a stage that was killed before its report, or got `corpus.report` later, writes it in the next run.
    """
    if config.report is None:
        return outcome
    if not _is_current(config):
        from pipelines.spark import session

        with show_progress(outcome.stage) as progress:
            progress.phase("writing the report")
            write_page(session(f"distributary {outcome.stage}", config.spark), config, config.report, None)
    return replace(outcome, facts={**outcome.facts, "report": config.report})


def _is_current(config: Any) -> bool:
    """Whether the page is there and about the newest documents."""
    from pipelines.corpus.report.file import read_page
    from pipelines.pin import pin

    documents = pin(config.documents)
    return documents is not None and read_page(config.report, documents) is not None


def write_page(spark: "SparkSession", config: Any, place: str, sequences: str | None) -> None:
    from pipelines.corpus.report import file
    from pipelines.corpus.report.page import render
    from pipelines.corpus.report.reading import Places, read_content

    places = Places(
        documents=config.documents,
        quarantine=config.quarantine,
        signals=config.signals,
        duplicates=config.duplicates,
        sequences=sequences,
    )
    page = render(read_content(spark, places, config.rules, config.tracking.experiment))
    file.write_page(place, page)
