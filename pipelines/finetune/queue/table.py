"""The queue as a Delta table of events, written and read without a JVM.

A change is one commit on top of exactly the version that it was decided on: of two that decide at the same
time, one gets a conflict, reads the table again and decides again. So nothing starts twice, and a command to
cancel never meets a start that it has not seen. Each commit is a small file; after MAX_FILES of them a commit
brings all events into one.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.arrow_rows import read_few
from pipelines.arrow_shards import Column, describe_columns, write_shard
from pipelines.commit import ConflictError, commit_shards, create_table
from pipelines.contract import PROPERTIES
from pipelines.finetune.queue.state import Event, QueueState
from pipelines.pin import TableLog, fingerprint, open_log
from pipelines.storage import Folder

NAME = "queue"
COLUMNS: tuple[Column, ...] = (
    ("number", "long", False, "order of the events, from 0"),
    ("kind", "string", False, "added, cancelled, scheduler, started, asked or ended"),
    ("at", "timestamp", False, "clock of the process that wrote it"),
    ("training", "long", True, "id of the training, from 1; null = of the scheduler itself"),
    ("attempt", "long", True, "process of the training, from 1; null = of none"),
    ("fence", "long", True, "number of the scheduler that wrote it; null = a command of a person"),
    ("detail", "string", False, "JSON object, see docs/queue.md"),
)
SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("training", pa.int64()),
        pa.field("attempt", pa.int64()),
        pa.field("fence", pa.int64()),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
MAX_FILES = 64
ATTEMPTS = 50
"""Against other writers: each time, one of them succeeds."""


class Snapshot(NamedTuple):
    """The table as it was at one version."""

    log: TableLog
    num_events: int
    state: QueueState


class QueueTable:
    def __init__(self, path: str) -> None:
        self.path = path
        self._folder = Folder(path)
        self._last: Snapshot | None = None

    def exists(self) -> bool:
        return open_log(self.path) is not None

    def read(self) -> Snapshot:
        """The newest version; an empty table is created if there is none."""
        log = open_log(self.path)
        if log is None:
            columns, about = describe_columns(COLUMNS), "one event of the queue of trainings"
            create_table(
                self.path, columns, name=NAME, description=about, partition_by=[], properties=PROPERTIES
            )
            log = open_log(self.path)
            assert log is not None, "it was created just now"
        if self._last is None or self._last.log.version != log.version:
            rows = self._read_rows(log)
            state = QueueState().after(_decode(row) for row in rows.to_pylist())
            self._last = Snapshot(log, rows.num_rows, state)
        return self._last

    def append(self, snapshot: Snapshot, events: Sequence[Event]) -> None:
        """Add events on top of `snapshot`. Raises ConflictError if the table has changed since."""
        rows = _encode(events, first=snapshot.num_events)
        present = list(snapshot.log.list_shards())
        folds = len(present) >= MAX_FILES
        if folds:
            rows = pa.concat_tables([self._read_rows(snapshot.log), rows])
        shard = write_shard(
            self._folder, f"events-{snapshot.num_events:010d}-{uuid.uuid4().hex}.parquet", rows
        )
        record = {
            "table": NAME,
            "digest": "",  # no stage reads the table or pins its rows
            "num_rows": rows.num_rows,
            "fingerprint": fingerprint(NAME, shard.path),
            "facts": {"events": [event.kind for event in events]},
            "last_foreign": snapshot.log.last_foreign(),
            "number": snapshot.log.last_number() + 1,
            "folder": "",
        }
        try:
            commit_shards(
                snapshot.log, [shard], replace=False, record=record, removed=present if folds else ()
            )
        except ConflictError:
            self._folder.delete(shard.path)
            raise

    def change(self, decide: Callable[[QueueState], Sequence[Event]]) -> QueueState:
        """Add the events that `decide` makes of the newest state, which is asked again after a conflict; the
        state with them. It may raise, or make none.

        Raises ConflictError if other writers were faster ATTEMPTS times.
        """
        for attempt in range(1, ATTEMPTS + 1):
            snapshot = self.read()
            events = decide(snapshot.state)
            if not events:
                return snapshot.state
            try:
                self.append(snapshot, events)
                return snapshot.state.after(events)
            except ConflictError:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _read_rows(self, log: TableLog) -> pa.Table:
        rows = read_few(log, SCHEMA)
        if rows is None:
            raise ValueError(
                f"the queue at {self.path} is too large, or another program wrote to it in a format of its "
                "own; set queue.table to a new path"
            )
        return rows.sort_by("number")


def _encode(events: Sequence[Event], *, first: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "number": first + position,
                "kind": event.kind,
                "at": datetime.fromtimestamp(event.at, UTC),
                "training": event.training,
                "attempt": event.attempt,
                "fence": event.fence,
                "detail": json.dumps(event.detail, ensure_ascii=False),
            }
            for position, event in enumerate(events)
        ],
        schema=SCHEMA,
    )


def _decode(row: dict[str, object]) -> Event:
    at, detail = row["at"], row["detail"]
    assert isinstance(at, datetime)
    assert isinstance(detail, str)
    names = ("kind", "training", "attempt", "fence")
    plain: dict[str, Any] = {name: row[name] for name in names}
    return Event(at=at.timestamp(), detail=json.loads(detail), **plain)
