"""What `distributary queue` prints: the trainings of a queue, and what a scheduler decided."""

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from jobs.shell.display import console
from jobs.shell.queue_launch import log_file
from jobs.shell.redaction import redact
from pipelines.finetune.queue.resources import Amount
from pipelines.finetune.queue.state import Event, QueuedTraining, QueueState

COLOURS = {"waiting": "yellow", "running": "blue", "done": "green", "failed": "red", "cancelled": "dim"}


def show_list(state: QueueState, queue: str, *, as_json: bool) -> None:
    """All trainings, in the order in which they were added."""
    now = time.time()
    if as_json:
        rows = [describe_training(each, queue, now) for each in state.trainings.values()]
        console.print(json.dumps(redact(rows), indent=2, ensure_ascii=False), markup=False, soft_wrap=True)
        return
    if not state.trainings:
        console.print(f"no trainings in {queue}; add one: distributary queue add --recipe NAME", markup=False)
        return
    table = Table("id", "recipe", "state", "needs", "group", "waited", "ran", "starts", "why", box=None)
    for each in state.trainings.values():
        about = describe_training(each, queue, now)
        status = "stopping" if each.status == "running" and about["is_stopping"] else each.status
        table.add_row(
            str(each.id),
            Text(each.name),
            Text(status, COLOURS[each.status]),
            describe_needs(each.needs),
            Text(about["group"] or "-"),
            format_seconds(about["waited_seconds"]),
            format_seconds(about["ran_seconds"]) if each.attempts else "-",
            str(len(each.attempts)),
            Text(str(redact(each.why))),
        )
    console.print(table)


def describe_training(each: QueuedTraining, queue: str, now: float) -> dict[str, Any]:
    """A training as a JSON object; times in seconds and ISO 8601, UTC."""
    ran = sum((now if a.ended_at is None else a.ended_at) - a.started_at for a in each.attempts)
    last = each.attempts[-1] if each.attempts else None
    is_over = each.status in ("done", "failed", "cancelled")
    end = last.ended_at if last is not None and is_over and last.ended_at is not None else now
    return {
        "id": each.id,
        "recipe": each.name,
        "state": each.status,
        "is_stopping": each.is_asked or (each.is_cancelled and each.status == "running"),
        "request": dict(each.request),
        "needs": dict(zip(("slots", "gpus", "memory_gb"), each.needs.parts(), strict=True)),
        "priority": each.priority,
        "deadline": None if each.deadline is None else _iso(each.deadline),
        "added_at": _iso(each.added_at),
        "waited_seconds": 0.0 if is_over and last is None else round(max(0.0, end - each.added_at - ran), 3),
        "ran_seconds": round(ran, 3),
        "group": last.group if last is not None else each.group,
        "starts": len(each.attempts),
        "log": None if last is None else str(log_file(queue, each.id, last.number)),
        "why": each.why,
    }


def describe_events(state: QueueState, events: Iterable[Event], queue: str) -> list[str]:
    """A line for each thing that a scheduler decided or saw."""
    lines = []
    for event in events:
        if event.training is None:
            continue
        each = state.trainings[event.training]
        name = f"{each.id} {each.name}"
        if event.kind == "started":
            assert event.attempt is not None
            log = log_file(queue, each.id, event.attempt)
            again = "" if event.attempt == 1 else f", start {event.attempt}"
            lines.append(
                f"{name}: starts in {event.detail['group']} ({describe_needs(each.needs)}{again}); {log}"
            )
        elif event.kind == "asked":
            lines.append(f"{name}: is asked to make room at its next step")
        elif event.kind == "ended":
            lines.append(f"{name}: {event.detail['outcome']}: {event.detail['why']}")
    return [str(redact(line)) for line in lines]


def describe_state(state: QueueState) -> str:
    """One line for the progress of a scheduler."""
    now = time.time()
    running = ", ".join(
        f"{each.id} {each.name} {format_seconds(now - each.attempts[-1].started_at)}"
        for each in state.having("running")
    )
    counts = [
        f"{len(state.having(status))} {status}"
        for status in ("waiting", "done", "failed", "cancelled")
        if state.having(status)
    ]
    return "; ".join([f"running: {running}" if running else "nothing runs", *counts])


def describe_needs(needs: Amount) -> str:
    parts = [f"{needs.slots} slots"]
    parts += [f"{needs.gpus:g} GPUs"] if needs.gpus else []
    return ", ".join([*parts, f"{needs.memory_gb:.1f} GB"])


def format_seconds(seconds: float) -> str:
    """0:07, 12:30, 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
