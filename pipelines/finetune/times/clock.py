"""A clock of one rank: every moment of a training belongs to one of PARTS.

A part that begins inside another one interrupts it: the wait for the other ranks inside the optimizer step
is communication. Inside an evaluation or a checkpoint nothing interrupts: their waits are theirs.

On a CPU the clock reads the time. On a GPU it puts an event into the stream where a part begins or ends, and
reads the events that are done when it is asked, so it never waits for the GPU. A part is then the time that
passes on the GPU: a wait for data counts only while the GPU has nothing left to do. Cost: a few microseconds
for each change of parts.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

from pipelines.finetune.times.parts import OUTSIDE_STEPS, PARTS, Part

Item = TypeVar("Item")


class _Timer(Protocol):
    """Where the marks come from."""

    def mark(self) -> Any:
        """This moment."""
        ...

    def is_known(self, mark: Any) -> bool:
        """Whether the time of the mark can be read without waiting."""
        ...

    def seconds_between(self, first: Any, second: Any) -> float: ...


class HostTimer:
    """The time of the CPU."""

    def mark(self) -> float:
        return time.perf_counter()

    def is_known(self, mark: float) -> bool:
        return True

    def seconds_between(self, first: float, second: float) -> float:
        return second - first


class DeviceTimer:
    """Events in the stream of a GPU."""

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def is_known(self, mark: Any) -> bool:
        return bool(mark.query())

    def seconds_between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second)) / 1000


class StepClock:
    """Seconds by part since the last `read`. It runs from its making on, first with `other`."""

    def __init__(self, timer: _Timer) -> None:
        self._timer = timer
        self._running: list[Part] = ["other"]
        self._last = timer.mark()
        self._unread: deque[tuple[Part, Any, Any]] = deque()
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def begin(self, part: Part) -> None:
        """From now on it is the time of `part`, until its `end`."""
        self._mark()
        outer = self._running[-1]
        self._running.append(outer if outer in OUTSIDE_STEPS else part)

    def end(self) -> None:
        """The part that began last ends; the one around it goes on."""
        self._mark()
        self._running.pop()

    def read(self) -> dict[Part, float]:
        """Seconds of each part since the last call, up to now; on a GPU, up to what it has done."""
        self._mark()
        seconds, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return seconds

    def _mark(self) -> None:
        now = self._timer.mark()
        self._unread.append((self._running[-1], self._last, now))
        self._last = now
        while self._unread and self._timer.is_known(self._unread[0][2]):
            part, first, second = self._unread.popleft()
            self._seconds[part] += self._timer.seconds_between(first, second)


def make_clock(device: torch.device) -> StepClock:
    """The clock of a rank that computes on `device`."""
    return StepClock(DeviceTimer() if device.type == "cuda" else HostTimer())


_clock: StepClock | None = None
"""Of the training of this process. As with tracing, what is measured need not be handed down to where it
happens: the backends of the collectives are made long before the loop starts."""


@contextmanager
def measure(clock: StepClock) -> Iterator[None]:
    """Inside the context, `part` counts on this clock."""
    global _clock
    outer, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = outer


@contextmanager
def part(name: Part) -> Iterator[None]:
    """The time of the context is that of `name`. Without a clock nothing is measured. Only what the loop
    waits for may use it: no thread that works beside it."""
    clock = _clock
    if clock is None:
        yield
        return
    clock.begin(name)
    try:
        yield
    finally:
        clock.end()


def take_timed(items: Iterable[Item], name: Part) -> Iterator[Item]:
    """The same items; the time in which they are made is that of `name`."""
    source, end = iter(items), object()
    while True:
        with part(name):
            item = next(source, end)
        if item is end:
            return
        yield item  # type: ignore[misc]
