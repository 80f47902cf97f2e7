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
        self._stage = stage
        # Threads read these while others set them: each is replaced as a whole.
        self._phase, self._speed = (0, "starting"), (0, "")
        self._start = self._last_line = time.monotonic()
        self._spinner: Status | None = None

    def phase(self, text: str) -> None:
        """Start the next phase; without a terminal its name is printed at once."""
        number = self.num_phases + 1
        if number == 2 and console.is_terminal:
            self._spinner = console.status("")
            self._spinner.start()
        if self._spinner is None:
            self.print(text)
        self._phase = number, text
        self.refresh()

    @property
    def num_phases(self) -> int:
        """Phases that were started: the number of the present one."""
        return self._phase[0]

    def update(self, text: str) -> None:
        """Show how far the phase is; without a terminal, after QUIET_SECONDS without a line."""
        self._phase = self.num_phases, text
        self.refresh()

    def show_speed(self, phase: int, speed: str) -> None:
        """Show the speed behind the text of the phase with this number; it ends with the phase.

        Another thread may call it late: the speed of a phase that has ended is not shown.
        """
        self._speed = phase, speed
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
        (number, text), (phase, speed) = self._phase, self._speed
        line = f"{text}: {speed}" if speed and phase == number else text
        if self._spinner is not None:
            seconds = f"{time.monotonic() - self._start:.0f} s"
            # The text comes last: a narrow terminal cuts the end of the line.
            self._spinner.update(
                Text.assemble((self._stage, "bold"), (f" {seconds}  ", "dim"), str(redact(line)))
            )
        elif time.monotonic() - self._last_line > QUIET_SECONDS:
            self.print(line)


def describe_speed(done: int, num_tasks: int, seconds: float, amount: int, unit: str) -> str:
    """How far a stage of Spark is: share, `amount` of all tasks per second, and the time that is left.

    Empty before the first task is done. Tasks are of about equal size, so their number stands for the rest.
    Without an amount (0), there is no rate.
    """
    if not done or seconds <= 0:
        return ""
    share = done / num_tasks
    rate = f"{amount * share / seconds:,.0f} {unit}/s, " if amount else ""
    return f"{share:.0%}, {rate}{seconds / share - seconds:,.0f} s left"


def describe_stage(
    found: tuple[int, int, int] | None, started: dict[int, float], now: float, amount: int, unit: str
) -> str:
    """As `describe_speed`, for what `count_tasks` found; empty if no stage runs, and for a single task.

    `started` has the time when each stage was first seen; a new one is added. `now` is a time in seconds.
    """
    if found is None:
        return ""
    stage, num_done, num_tasks = found
    seconds = now - started.setdefault(stage, now)
    return describe_speed(num_done, num_tasks, seconds, amount, unit) if num_tasks > 1 else ""


@contextmanager
def follow_tasks(
    progress: Progress, spark: "SparkSession", text: str, amount: int, unit: str
) -> Iterator[None]:
    """Start the phase `text`, and show the speed of Spark's largest running stage while the context lasts.

    `amount` is what all tasks of the stage do together, in `unit`. Phases that start within the context show
    share and time of their stages, but no rate: the amount is not theirs.
    """
    from pipelines.spark import count_tasks

    progress.phase(text)
    own = progress.num_phases
    started: dict[int, float] = {}

    def follow() -> None:
        phase = progress.num_phases  # asked first: a phase that starts meanwhile gets no speed of this one
        total = amount if phase == own else 0
        found = count_tasks(spark)
        progress.show_speed(phase, describe_stage(found, started, time.monotonic(), total, unit))

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
