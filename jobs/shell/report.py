"""The report of a corpus as a file: `corpus.report` after the stage, `distributary corpus --report` later."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter

from jobs.shell.display import console
from jobs.shell.redaction import redact
from jobs.shell.settings import Settings, TablePlace
from jobs.shell.stage import Work
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


def write_report(config: Any, work: Work[Any]) -> None:
    """At the end of the stage, if `corpus.report` names a file."""
    if config.report is not None:
        work.progress.phase("writing the report")
        write_page(work.spark, config, config.report, None)


def write_page(spark: "SparkSession", config: Any, place: str, sequences: str | None) -> None:
    from pipelines.corpus.report.page import render
    from pipelines.corpus.report.reading import Places, read_content
    from pipelines.storage import Folder

    places = Places(
        documents=config.documents,
        quarantine=config.quarantine,
        signals=config.signals,
        duplicates=config.duplicates,
        sequences=sequences,
    )
    page = render(read_content(spark, places, config.rules, config.tracking.experiment))
    folder, _, name = place.rpartition("/")
    Folder(folder).write(name, page.encode())
