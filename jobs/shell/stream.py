"""`distributary corpus --stream`: the stage again and again, for files that arrive.

Each round is a usual run: it compares the folder with the ledger and adds what is new, exactly once. So a
stream has no state of its own, can be killed at any moment, and a usual run goes on where it stopped.
"""

import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from jobs.shell.display import console, display_outcome
from jobs.shell.exits import Exit, find_exit
from jobs.shell.plan import Outcome
from jobs.shell.redaction import redact

Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Look for new files every corpus.stream_interval_seconds and add them, until the command is "
        "stopped. Without it, the files that are there are processed once.",
    ),
]
"""An option of the corpus command."""


def follow(
    run_once: Callable[[], Outcome],
    interval_seconds: float,
    note: Callable[[Outcome], None] = display_outcome,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Call `run_once` every so many seconds, counted from the start of a round, until it raises.

    `note` gets the first outcome and each one that wrote rows. Errors that may pass (a store that does not
    answer, a folder without files yet) are printed once and tried again at the next round.
    """
    failed, is_first = "", True
    while True:
        began = time.monotonic()
        try:
            outcome = run_once()
        except Exception as error:
            if not _may_pass(error):
                raise
            text = str(error).partition("\n")[0]
            if text != failed:
                console.print(redact(f"tries again every {interval_seconds:g} s: {text}"), markup=False)
            failed = text
        else:
            if outcome.ran or is_first:
                note(outcome)
            failed, is_first = "", False
        wait(max(0.0, interval_seconds - (time.monotonic() - began)))


def _may_pass(error: Exception) -> bool:
    from pipelines.corpus.listing import NoFilesError

    if isinstance(error, NoFilesError):
        return True
    return find_exit(error, configuring=False) == Exit.RETRY and not _has_lost_jvm()


def _has_lost_jvm() -> bool:
    if "pyspark" not in sys.modules:  # no round has started Spark yet
        return False
    from pipelines.jvm import has_lost_jvm

    return has_lost_jvm()
