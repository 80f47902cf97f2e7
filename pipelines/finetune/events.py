"""Training events: rank 0 writes them beside the checkpoints, the driver reads them for progress and
tracking.

Numbered small files instead of one that grows, because object stores cannot append. An event is one JSON
object: `kind` (step, times, evaluation, mixture, final, note, warning), `step`, and its numbers or text. A
resumed training repeats the events after its checkpoint; the reader keeps the first of each (kind, split,
step).
"""

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

from pipelines.storage import Folder

logger = logging.getLogger(__name__)

MIN_FLUSH_SECONDS, MAX_FLUSH_SECONDS = 1.0, 15.0
"""Between two files: a sixtieth of the time so far, so that a night makes a few thousand files and a minute
is still live.
"""
MESSAGES = ("note", "warning")
"""Kinds for a person; the others are numbers for the record of the run."""
NOTE_SECONDS = 2.0
"""Every batch of an evaluation makes a note; one in this time is kept."""
CLOSE_TRIES, CLOSE_PAUSE_SECONDS = 5, 2.0
"""Before a checkpoint and at the end; storage that is away for longer fails the rank, and Spark launches
again.
"""
MAX_PENDING = 10_000
"""Events kept while storage refuses them, about 3 MB: hours of training at one event per second."""


class EventWriter:
    """Collects events and writes them every second at first, less often later.

    While storage refuses a file, its events stay pending and are tried again with the next ones: a short
    fault does not end a training. `close` is the last word before a checkpoint or the end, and raises.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder, self._started = folder, time.monotonic()
        self._flushed, self._noted = self._started, 0.0
        self._pending: list[dict[str, Any]] = []

    def write(self, kind: str, *, step: int, **fields: Any) -> None:
        """Add an event. Never raises OSError for storage; beyond MAX_PENDING notes are dropped first, then
        raises RuntimeError.
        """
        self._pending.append({"kind": kind, "step": step, **fields})
        now = time.monotonic()
        if now - self._flushed < min(MAX_FLUSH_SECONDS, max(MIN_FLUSH_SECONDS, (now - self._started) / 60)):
            return
        try:
            self._flush()
        except OSError as error:
            self._flushed = now
            self._limit_pending(error)
            logger.warning(
                "%d training events cannot be written now (%s); trying again", len(self._pending), error
            )

    def note(self, text: str, *, step: int) -> None:
        """What the rank is doing, for a person; dropped if another note was just written."""
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            self._noted = time.monotonic()
            self.write("note", step=step, text=text)

    def close(self) -> None:
        """Write what is pending. Raises OSError if storage refuses it CLOSE_TRIES times.

        A checkpoint must not be kept without the events before it.
        """
        for attempt in range(1, CLOSE_TRIES + 1):
            try:
                self._flush()
                return
            except OSError as error:
                if attempt == CLOSE_TRIES:
                    raise
                logger.warning("training events cannot be written now (%s); trying again", error)
                time.sleep(CLOSE_PAUSE_SECONDS)

    def _flush(self) -> None:
        if self._pending:
            lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in self._pending)
            # Time orders the files of a first try before those of a second.
            self._folder.write(f"{time.time_ns():020d}.jsonl", lines.encode())
        self._pending, self._flushed = [], time.monotonic()

    def _limit_pending(self, error: OSError) -> None:
        if len(self._pending) > MAX_PENDING:
            self._pending = [event for event in self._pending if event["kind"] != "note"]
        if len(self._pending) > MAX_PENDING:
            raise RuntimeError(
                f"{len(self._pending)} training events wait to be written to {self._folder.path}: {error}; "
                "repair the storage and run again: training continues from its newest checkpoint"
            ) from error


class EventReader:
    """Hands out each new event once."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._read: set[str] = set()
        self._seen: set[tuple[str, str, int]] = set()

    def new(self) -> Iterator[dict[str, Any]]:
        """New events in order. If reading fails on the way, call again for the rest: none is repeated."""
        for name in self._folder.names():
            if name in self._read:
                continue
            for event in [json.loads(line) for line in self._folder.read(name).decode().splitlines()]:
                key = (event["kind"], event.get("split", ""), event["step"])
                if event["kind"] in MESSAGES or key not in self._seen:
                    self._seen.add(key)
                    yield event
            self._read.add(name)
