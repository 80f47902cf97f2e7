"""Training events: rank 0 writes them beside the checkpoints, the driver reads them for progress and tracking.

Numbered small files instead of one that grows, since object stores cannot append. An event is one JSON object: `kind` (step,
evaluation, final, note, warning), `step`, and its numbers or text. A resumed training repeats the events after
its checkpoint; the reader of events keeps the first of each (kind, split, step).
"""

import json
import time
from collections.abc import Iterator
from typing import Any

from pipelines.storage import Folder

MIN_FLUSH_SECONDS, MAX_FLUSH_SECONDS = 1.0, 15.0
"""Between two files: a sixtieth of the time so far, so that a night makes a few thousand files and a minute is still live."""
SPOKEN = ("note", "warning")
"""For a person; the others are for the record."""
NOTE_SECONDS = 2.0
"""Notes come with every batch of an evaluation; one in this time is worth keeping."""


class EventWriter:
    """Collects events and writes them every second at first, more seldom later; `close` writes what is left."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._started = folder, time.monotonic()
        self._flushed, self._noted = self._started, 0.0
        self._pending: list[dict[str, Any]] = []

    def write(self, kind: str, *, step: int, **fields: Any) -> None:
        self._pending.append({"kind": kind, "step": step, **fields})
        now = time.monotonic()
        if now - self._flushed >= min(MAX_FLUSH_SECONDS, max(MIN_FLUSH_SECONDS, (now - self._started) / 60)):
            self.close()

    def note(self, text: str, *, step: int) -> None:
        """What the rank is at, for a person; dropped if another note was just written."""
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            self._noted = time.monotonic()
            self.write("note", step=step, text=text)

    def close(self) -> None:
        if self._pending:
            lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in self._pending)
            # Time orders the files of a first try before those of a second.
            self._folder.write(f"{time.time_ns():020d}.jsonl", lines.encode())
        self._pending, self._flushed = [], time.monotonic()


class EventReader:
    """Hands out each new event once."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._read: set[str] = set()
        self._seen: set[tuple[str, str, int]] = set()

    def new(self) -> Iterator[dict[str, Any]]:
        """In order. What was handed out stays so if reading fails on the way: call again for the rest."""
        for name in self._folder.names():
            if name in self._read:
                continue
            for event in [json.loads(line) for line in self._folder.read(name).decode().splitlines()]:
                key = (event["kind"], event.get("split", ""), event["step"])
                if event["kind"] in SPOKEN or key not in self._seen:
                    self._seen.add(key)
                    yield event
            self._read.add(name)
