"""A training makes room when it is asked to: it writes a checkpoint after the step in progress and ends.
Later it goes on with the same weights.

SIGUSR1 asks the process of the driver. The driver passes the request on as a file in the run folder. Only
rank 0 looks for it, and adds its answer to the sum of the loss that all ranks have after each step: they
stop after the same step, and no step costs another exchange. Under local SGD the request waits for the next
synchronisation.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.storage import Folder

REQUEST = "make_room"
"""File in the run folder. The next launch deletes it."""
LOOK_SECONDS = 5.0
"""Between two looks of rank 0: an object store may take tens of milliseconds to answer."""

_asked = threading.Event()


class Preempted(KeyboardInterrupt):
    """The training ended at a checkpoint because it was asked to. A KeyboardInterrupt, as SIGTERM is: it is
    no fault, libraries let it pass, and contexts clean up after it."""


@contextmanager
def heed_requests() -> Iterator[None]:
    """Take SIGUSR1 as a request while the context lasts, which may lie in another such context.

    Does nothing in other threads than the main one, which get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, _note_request)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
        if before is not _note_request:
            _asked.clear()


def _note_request(number: int, frame: FrameType | None) -> None:
    _asked.set()


def require_no_request(step: int | None = None) -> None:
    """Raise Preempted if this process was asked to make room, or if the ranks did so after `step`."""
    if step is not None:
        raise Preempted(f"the training made room: it ended at the checkpoint of step {step}")
    if _asked.is_set():
        raise Preempted("the training made room before its ranks were launched")


def pass_on_request(run: "Folder") -> Callable[[], None]:
    """What the driver calls about once a second. It writes the file of the request once; while storage
    refuses, the next call tries again. The file of an earlier launch is deleted here."""
    run.delete(REQUEST)
    passed_on = threading.Event()

    def look() -> None:
        if _asked.is_set() and not passed_on.is_set():
            try:
                run.write(REQUEST, b"")
            except OSError:
                return
            passed_on.set()

    return look


class RequestReader:
    """Whether a rank asks all ranks to end here: rank 0, once it has seen the request."""

    def __init__(self, run: "Folder", rank: int) -> None:
        self._run, self._is_reader = run, rank == 0
        self._looked_at = -LOOK_SECONDS
        self._is_seen = False

    def is_asked(self) -> bool:
        """Looks at the storage at most every LOOK_SECONDS. A store that does not answer asks for nothing."""
        now = time.monotonic()
        if self._is_reader and not self._is_seen and now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            try:
                self._is_seen = self._run.exists(REQUEST)
            except OSError:
                return False
        return self._is_seen
