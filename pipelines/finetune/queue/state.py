"""The state of a queue: its events, one after the other. Plain values; `table` keeps the events.

A training waits; an attempt starts; the attempt ends with an outcome, after which the training is done,
failed or cancelled, or waits again and goes on from its newest checkpoint.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from pipelines.finetune.queue.resources import Amount, Running, Waiting

Kind = Literal["added", "cancelled", "scheduler", "started", "asked", "ended"]
Status = Literal["waiting", "running", "done", "failed", "cancelled"]
WAITS_AGAIN = {
    "preempted": "made room",
    "lost": "its process was killed",
    "unborn": "its process never began",
    "busy": "another command works on the same training",
    "retry": "cluster, storage or tracking server failed",
    "stopped": "stopped from outside",
}
"""Outcome of an attempt after which the training waits again -> why it ended."""
FAULTS = ("lost", "retry")
"""Outcomes that count: after too many the training has failed."""
PAUSED, PAUSE_SECONDS = ("busy", "retry"), 30.0
"""Outcomes after which it waits for so long before its next attempt."""
LEAST_LEFT = 0.05
"""Of the expected time: what a training that is late is expected to need still."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One row of the table."""

    kind: Kind
    at: float
    """Seconds since the epoch, by the clock of the writer."""
    training: int | None = None
    """None = of the scheduler itself."""
    attempt: int | None = None
    fence: int | None = None
    """Number of the scheduler that wrote it; None = a person's command did."""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One process of a training."""

    number: int
    """From 1."""
    group: str
    started_at: float
    gpus: Sequence[int] | None = None
    """Numbers of the GPUs of its machine that it has; None = Spark gives them, or the group has none."""
    ended_at: float | None = None
    """None = it has not been seen to end."""
    outcome: str = ""
    worked: bool = True
    """False = it found the training up to date."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedTraining:
    id: int
    name: str
    """Name of its recipe."""
    request: Mapping[str, Any]
    """Its command: recipe, env, config, overrides."""
    folder: str
    """Where the command was given: relative paths of the configuration begin there."""
    needs: Amount
    added_at: float
    priority: int = 0
    deadline: float | None = None
    group: str | None = None
    seconds: float | None = None
    """How long it runs alone, as the person said who added it; None = not said."""
    status: Status = "waiting"
    attempts: tuple[Attempt, ...] = ()
    is_asked: bool = False
    """Its running attempt shall make room."""
    is_cancelled: bool = False
    why: str = ""
    """Why it ended, or waits again."""

    @property
    def used_seconds(self) -> float:
        """Of attempts whose work a checkpoint has kept; of others, it is not known how much is lost."""
        return sum(
            each.ended_at - each.started_at
            for each in self.attempts
            if each.ended_at is not None and each.outcome in ("preempted", "done")
        )

    @property
    def is_measured(self) -> bool:
        """Whether it is done, and used_seconds is all that it took: no attempt was lost, and it did work."""
        kept = all(each.outcome in ("preempted", "done") for each in self.attempts)
        return self.status == "done" and kept and self.attempts[-1].worked

    def waits_until(self) -> float:
        """When its next attempt may start; -infinite = at once, whatever the clock that added it says."""
        last = self.attempts[-1] if self.attempts else None
        if last is None or last.ended_at is None or last.outcome not in PAUSED:
            return -math.inf
        return last.ended_at + PAUSE_SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueState:
    trainings: Mapping[int, QueuedTraining] = field(default_factory=dict)
    """By id, which is 1 for the first one."""
    fence: int = 0
    """Number of the newest scheduler; 0 = there was none."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """Of the newest scheduler: host, pid, policy."""

    def having(self, *statuses: Status) -> list[QueuedTraining]:
        return [each for each in self.trainings.values() if each.status in statuses]

    def after(self, events: Iterable[Event]) -> "QueueState":
        """The state after these events, too."""
        trainings, fence, scheduler = dict(self.trainings), self.fence, self.scheduler
        for event in events:
            if event.kind == "scheduler":
                assert event.fence is not None
                fence, scheduler = event.fence, event.detail
            elif event.kind == "added":
                added = _read_added(event)
                trainings[added.id] = added
            else:
                assert event.training is not None
                trainings[event.training] = _change(trainings[event.training], event)
        return QueueState(trainings=trainings, fence=fence, scheduler=scheduler)

    def list_waiting(self, now: float) -> list[Waiting]:
        """Those that may start now, as a policy sees them."""
        expected = self.estimate_seconds()
        return [
            Waiting(
                id=each.id,
                needs=each.needs,
                added_at=each.added_at,
                seconds=_expect_left(each, expected),
                priority=each.priority,
                deadline=math.inf if each.deadline is None else each.deadline,
                group=each.group,
            )
            for each in self.having("waiting")
            if each.waits_until() <= now
        ]

    def list_running(self) -> list[Running]:
        expected = self.estimate_seconds()
        return [
            Running(
                id=each.id,
                needs=each.needs,
                group=each.attempts[-1].group,
                started_at=each.attempts[-1].started_at,
                ends_at=each.attempts[-1].started_at + _expect_left(each, expected),
                priority=each.priority,
                deadline=math.inf if each.deadline is None else each.deadline,
                is_stopping=each.is_asked or each.is_cancelled,
            )
            for each in self.having("running")
        ]

    def estimate_seconds(self) -> dict[str, float]:
        """Name of a recipe -> mean time of its trainings whose time is known."""
        times: dict[str, list[float]] = {}
        for each in self.trainings.values():
            if each.is_measured:
                times.setdefault(each.name, []).append(each.used_seconds)
        return {name: sum(found) / len(found) for name, found in times.items()}


def _expect_left(each: QueuedTraining, expected: Mapping[str, float]) -> float:
    """Seconds that a training will still run; infinite = not known."""
    whole = expected.get(each.name, math.inf) if each.seconds is None else each.seconds
    return whole if math.isinf(whole) else max(whole - each.used_seconds, LEAST_LEFT * whole)


def _read_added(event: Event) -> QueuedTraining:
    assert event.training is not None
    detail = dict(event.detail)
    needs = Amount(**detail.pop("needs"))
    return QueuedTraining(id=event.training, added_at=event.at, needs=needs, **detail)


def _change(each: QueuedTraining, event: Event) -> QueuedTraining:
    if event.kind == "cancelled":
        if each.status == "waiting":
            return replace(each, status="cancelled", is_cancelled=True, why="cancelled before it started")
        return replace(each, is_cancelled=True)
    if event.kind == "asked":
        return replace(each, is_asked=True)
    if event.kind == "started":
        assert event.attempt is not None
        attempt = Attempt(number=event.attempt, started_at=event.at, **event.detail)
        return replace(each, status="running", attempts=(*each.attempts, attempt), why="")
    worked = event.detail.get("worked", True)  # tables of earlier versions do not say
    last = replace(each.attempts[-1], ended_at=event.at, outcome=event.detail["outcome"], worked=worked)
    status = cast(Status, "waiting" if last.outcome in WAITS_AGAIN else last.outcome)
    ended = (*each.attempts[:-1], last)
    return replace(each, status=status, attempts=ended, is_asked=False, why=event.detail["why"])
