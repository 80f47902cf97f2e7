"""Live progress of a stage: a spinner with seconds on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.status import Status
from rich.text import Text

from jobs.shell.display import console
from jobs.shell.redaction import redact
from jobs.shell.repeating import repeat_every

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

QUIET_SECONDS = 5.0
"""Without a terminal, a line appears at least this often while work goes on."""


class Progress:
    """Shows what a stage is doing and for how long.

    The first phase is a plain line on a terminal too: it starts Spark, and a new JVM writes there as it
    likes.
    """

    def __init__(self, stage: str) -> None:
        self._stage, self._text = stage, "starting"
        self._start = self._last_line = time.monotonic()
        self._spinner: Status | None = None
        self._num_phases = 0

    def phase(self, text: str) -> None:
        """Start the next phase; without a terminal its name is printed at once."""
        self._num_phases += 1
        if self._num_phases == 2 and console.is_terminal:
            self._spinner = console.status("")
            self._spinner.start()
        if self._spinner is None:
            self.print(text)
        self.update(text)

    def update(self, text: str) -> None:
        """Show how far the phase is; without a terminal, after QUIET_SECONDS without a line."""
        self._text = text
        self.refresh()

    def print(self, text: str) -> None:
        """Print a line that stays."""
        seconds = time.monotonic() - self._start
        console.print(f"  {self._stage:<9} {seconds:5.0f} s  {redact(text)}", markup=False)
        self._last_line = time.monotonic()

    def stop(self) -> None:
        """Remove the spinner."""
        if self._spinner is not None:
            self._spinner.stop()

    def refresh(self) -> None:
        """Show the seconds that have passed; without a terminal, if it is time for a line."""
        if self._spinner is not None:
            seconds = f"{time.monotonic() - self._start:.0f} s"
            # The text comes last: a narrow terminal cuts the end of the line.
            text = Text.assemble((self._stage, "bold"), (f" {seconds}  ", "dim"), str(redact(self._text)))
            self._spinner.update(text)
        elif time.monotonic() - self._last_line > QUIET_SECONDS:
            self.print(self._text)


def describe_speed(done: int, num_tasks: int, seconds: float, amount: int, unit: str) -> str:
    """How far a stage of Spark is: share, `amount` of all tasks per second, and the time that is left.

    Empty before the first task is done. Tasks are of about equal size, so their number stands for the rest.
    """
    if not done or seconds <= 0:
        return ""
    share = done / num_tasks
    left = seconds / share - seconds
    return f"{share:.0%}, {amount * share / seconds:,.0f} {unit}/s, {left:,.0f} s left"


@contextmanager
def follow_tasks(
    progress: Progress, spark: "SparkSession", text: str, amount: int, unit: str
) -> Iterator[None]:
    """Start the phase `text`, and show the speed of Spark's largest running stage while the context lasts.

    `amount` is what all tasks of the stage do together, in `unit`.
    """
    from pipelines.spark import count_tasks

    progress.phase(text)
    started: dict[int, float] = {}

    def follow() -> None:
        if (found := count_tasks(spark)) is None:
            return
        stage, num_done, num_tasks = found
        seconds = time.monotonic() - started.setdefault(stage, time.monotonic())
        speed = describe_speed(num_done, num_tasks, seconds, amount, unit)
        if num_tasks > 1 and speed:
            progress.update(f"{text}: {speed}")

    with repeat_every(1.0, follow):
        yield


@contextmanager
def show_progress(stage: str) -> Iterator[Progress]:
    """Progress of a stage; a thread refreshes it while the stage waits for Spark or loads libraries."""
    progress = Progress(stage)
    try:
        with repeat_every(1.0, progress.refresh):
            yield progress
    finally:
        progress.stop()
