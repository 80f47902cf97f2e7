"""Reports as files: `STAGE.report` after a stage, `distributary STAGE --report` later.

What a report says is the matter of the stage: `corpus_report.py`, `sequences_report.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.shell.display import console
from jobs.shell.plan import Outcome
from jobs.shell.progress import show_progress
from jobs.shell.redaction import redact
from pipelines.paths import absolute
from pipelines.stores import configure

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class StageReport(NamedTuple):
    """The report of one stage; the functions get the section of the stage."""

    table: str
    """That the report is about."""
    is_current: Callable[[Any], bool]
    """Whether the report of the configuration is there, about the newest rows, and would say the same."""
    write: "Callable[[SparkSession, Any, str], None]"
    """Write page and numbers about the newest rows to a place."""


def run_with_report(config: Any, run: Callable[[], Outcome], report: StageReport) -> Outcome:
    """Run the stage; its outcome with the place of its report, written now unless it is there.

    So a stage that was killed before its report, or got the key `report` later, writes it in the next run.
    Raises ValueError before the stage runs if another file is at the place.
    """
    if config.report is None:
        return run()
    _require_place(config, config.report, report.table)
    outcome = run()
    if not report.is_current(config):
        from pipelines.spark import session

        with show_progress(outcome.stage) as progress:
            progress.phase("writing the report")
            report.write(session(f"distributary {outcome.stage}", config.spark), config, config.report)
    return replace(outcome, facts={**outcome.facts, "report": config.report})


def write_to(config: Any, file: str, report: StageReport) -> None:
    """Write the report about the tables of `config` to a file, and print its place.

    Raises ValueError if the tables are not there or were not made together, or another file is at its place.
    """
    from pipelines.spark import session

    place = absolute(file)
    _require_place(config, place, report.table)
    report.write(session("distributary report", config.spark), config, place)
    console.print(redact(f"report: {place}"), markup=False)


def _require_place(config: Any, place: str, table: str) -> None:
    from pipelines.report import require_file

    configure(config.storage)
    require_file(place, table)
