"""Training events: rank 0 writes them beside the checkpoints, the driver reads them for progress and tracking.

Numbered small files instead of one that grows, since object stores cannot append. An event is one JSON object: `kind` (step,
evaluation, note), `step`, and its numbers. A resumed training repeats the events after its checkpoint; the reader of events keeps
the first of each (kind, split, step).
"""

import json
import time
from collections.abc import Iterator
from typing import Any

from pipelines.storage import Folder

FLUSH_SECONDS = 1.0


class EventWriter:
    """Collects events and writes them about once a second; `close` writes what is left."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._flushed = folder, time.monotonic()
        self._pending: list[dict[str, Any]] = []

    def write(self, kind: str, *, step: int, **fields: Any) -> None:
        self._pending.append({"kind": kind, "step": step, **fields})
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.close()

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
        for name in self._folder.names():
            if name in self._read:
                continue
            self._read.add(name)
            for line in self._folder.read(name).decode().splitlines():
                event = json.loads(line)
                key = (event["kind"], event.get("split", ""), event["step"])
                if event["kind"] == "note" or key not in self._seen:
                    self._seen.add(key)
                    yield event
