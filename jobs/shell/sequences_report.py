"""The report of sequences: `dataset.report` after the stage, `distributary dataset --report` later."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.shell.plan import Outcome
from jobs.shell.report import StageReport, run_with_report, write_to
from jobs.shell.settings import AbsolutePath, Section, TablePlace

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SequencesReport = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write an HTML page about the table of sequences that is there: lengths before and after "
        "packing, padding, tokens by source, and samples with their targets; its numbers go to a .json "
        "beside it. Nothing else is changed.",
    ),
]
"""An option of the dataset command."""


class ReportedSection(Section):
    """A section with a table of sequences, and the report about it."""

    sequences: TablePlace
    tokenizers: AbsolutePath
    report: AbsolutePath | None


def show_report(config: Any, file: str) -> None:
    """Write the page about the sequences of `config`, and its numbers; see `write_to`."""
    write_to(config, file, REPORT)


def add_report(config: Any, run: Callable[[], Outcome]) -> Outcome:
    """Run the stage and write its report; see `run_with_report`."""
    return run_with_report(config, run, REPORT)


def is_current(config: Any) -> bool:
    """Whether the page and its numbers are there, about the newest sequences."""
    from pipelines.dataset.report.numbers import are_settled
    from pipelines.pin import pin
    from pipelines.report import read_report

    sequences = pin(config.sequences)
    report = read_report(config.report, sequences) if sequences else None
    return report is not None and are_settled(report.numbers)


def write_report(spark: "SparkSession", config: Any, place: str) -> None:
    """Page and numbers about the newest sequences."""
    from pipelines import report as files
    from pipelines.dataset.report.numbers import write_numbers
    from pipelines.dataset.report.page import render
    from pipelines.dataset.report.reading import read_content

    content = read_content(spark, config.sequences, config.tokenizers, config.tracking.experiment)
    files.write_report(place, render(content), write_numbers(content))


REPORT = StageReport("sequences", is_current, write_report)
