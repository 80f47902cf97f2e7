"""The scheduler of a queue: looks at the running trainings, asks the policy, commits what it decides, and
only then starts processes and sends signals.

All that it must not forget is in the table, so it may be killed at any moment:

- before the commit of a start, nothing has happened;
- between the commit and the process, the next scheduler finds an attempt without a claim, claims it itself,
  and the training waits again;
- afterwards the process lives on, and the next scheduler watches it as its own.

Only one scheduler at a time: a lease says so at once, and a number in the table (fencing) makes sure of it. A
scheduler that was paused while another took over cannot commit any more, and without a commit it starts
nothing.
"""

import math
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipelines.commit import ConflictError
from pipelines.finetune.queue.attempt import AttemptFolder, ClaimUnreadableError, Life
from pipelines.finetune.queue.outcome import Ending, judge_ending
from pipelines.finetune.queue.policies import Policy
from pipelines.finetune.queue.reservation import MakeRoom, Start
from pipelines.finetune.queue.resources import Amount, choose_gpus
from pipelines.finetune.queue.state import Attempt, Event, QueuedTraining, QueueState
from pipelines.finetune.queue.table import QueueTable
from pipelines.lease import DEAD_SECONDS, LeaseLostError

Launch = Callable[[QueuedTraining, Attempt], "subprocess.Popen[bytes]"]
"""Starts the process of an attempt, which claims its `AttemptFolder` before it does anything else. Raises
OSError if the system starts no process now."""


@dataclass(slots=True)
class Scheduler:
    """Call `take_over` once, then `look` about once a second, while a lease on the queue is held."""

    table: QueueTable
    policy_name: str
    policy: Policy
    resources: Mapping[str, Amount]
    launch: Launch
    max_faults: int
    """Attempts that may be lost, or fail for the cluster, before a training has failed."""
    note: Callable[[QueueState, list[Event]], None] = lambda state, events: None
    """Hears the state and the events that were committed just now."""
    _fence: int = 0
    _own: dict[tuple[int, int], "subprocess.Popen[bytes]"] = field(default_factory=dict)
    """Processes that this scheduler started: they must be waited for, and may not have claimed yet."""
    _sent: set[tuple[int, int, int]] = field(default_factory=set)
    """(training, attempt, signal) that this scheduler has sent."""
    _not_started: dict[tuple[int, int], str] = field(default_factory=dict)
    """(training, attempt) -> why this scheduler could not start its process."""
    _unreadable: dict[tuple[int, int], float] = field(default_factory=dict)
    """(training, attempt) -> since when its claim cannot be read, by the monotonic clock."""

    def take_over(self) -> None:
        """Become the scheduler: from now on an earlier one cannot commit."""
        about = {"host": platform.node(), "pid": os.getpid(), "policy": self.policy_name}

        def decide(state: QueueState) -> list[Event]:
            return [Event(kind="scheduler", at=time.time(), fence=state.fence + 1, detail=about)]

        self._fence = self.table.change(decide).fence

    def look(self) -> QueueState:
        """One round; the state after it. Raises LeaseLostError if another scheduler took over."""
        snapshot, now = self.table.read(), time.time()
        self._require_fence(snapshot.state)
        ended = self._find_ended(snapshot.state, now)
        state = snapshot.state.after(ended)
        decided = self._decide(state, now)
        events = [*ended, *decided]
        if events:
            try:
                self.table.append(snapshot, events)
            except ConflictError:  # a command was faster: the next round decides again
                self._require_fence(self.table.read().state)
                return self.table.read().state
            state = state.after(decided)
            self.note(state, events)
        self._forget(ended)
        for event in decided:
            if event.kind == "started":
                assert event.training is not None
                self._launch(state.trainings[event.training])
        self._send_signals(state)
        return state

    def _require_fence(self, state: QueueState) -> None:
        if state.fence != self._fence:
            raise LeaseLostError(
                f"the queue at {self.table.path} was taken over by scheduler {state.fence} (process "
                f"{state.scheduler.get('pid')} on {state.scheduler.get('host')}); this one stops"
            )

    def _find_ended(self, state: QueueState, now: float) -> list[Event]:
        found = [(each, self._judge(each)) for each in state.having("running")]
        return [
            Event(
                kind="ended",
                at=now,
                training=each.id,
                attempt=each.attempts[-1].number,
                fence=self._fence,
                detail=ending._asdict(),
            )
            for each, ending in found
            if ending is not None
        ]

    def _judge(self, training: QueuedTraining) -> Ending | None:
        """How the running attempt ended; None = it goes on."""
        attempt = training.attempts[-1]
        key = (training.id, attempt.number)
        place, own = self._open(training, attempt), self._own.get(key)
        status = None if own is None else own.poll()
        life = self._read_life(place, key)
        if life == "not begun" and (own is None or status is not None) and place.give_up():
            life = "given up"
        if life == "given up":
            fault = self._not_started.get(key, "")
            return judge_ending(training, None, self.max_faults, status=status, fault=fault)
        if life != "ended":
            return None
        return judge_ending(training, place.read_summary() or {}, self.max_faults)

    def _read_life(self, place: AttemptFolder, key: tuple[int, int]) -> Life:
        """An attempt whose claim cannot be read counts as alive for DEAD_SECONDS: it may be half written."""
        try:
            life = place.read_life()
        except ClaimUnreadableError:
            if time.monotonic() - self._unreadable.setdefault(key, time.monotonic()) > DEAD_SECONDS:
                raise
            return "alive"
        self._unreadable.pop(key, None)
        return life

    def _decide(self, state: QueueState, now: float) -> list[Event]:
        chosen = self.policy.choose(state.list_waiting(now), state.list_running(), self.resources, now)
        used = {group: _count_used(state, group) for group in self.resources}
        events = [self._record(state.trainings[each.id], each, used, now) for each in chosen]
        return [event for event in events if event is not None]

    def _record(
        self,
        training: QueuedTraining,
        decision: Start | MakeRoom,
        used: Mapping[str, dict[int, float]],
        now: float,
    ) -> Event | None:
        """The event of a decision; None = the start waits, because policies count the GPUs of a group
        together, and no single ones have room. `used`, group -> GPU -> part of it, gets those of a start."""
        number = len(training.attempts)
        if isinstance(decision, MakeRoom):
            return Event(kind="asked", at=now, training=training.id, attempt=number, fence=self._fence)
        gpus, whole = None, self.resources[decision.group]
        if whole.gpus:
            needed, mine = training.needs.gpus, used[decision.group]
            gpus = choose_gpus(needed, math.ceil(whole.gpus), mine)
            if gpus is None:
                return None
            for gpu in gpus:
                mine[gpu] = mine.get(gpu, 0.0) + needed / len(gpus)
        return Event(
            kind="started",
            at=now,
            training=training.id,
            attempt=number + 1,
            fence=self._fence,
            detail={"group": decision.group, "gpus": gpus},
        )

    def _launch(self, training: QueuedTraining) -> None:
        """A failure is a fault of the attempt: the next round gives it up, and the training waits a while."""
        attempt = training.attempts[-1]
        try:
            self._own[training.id, attempt.number] = self.launch(training, attempt)
        except OSError as error:
            self._not_started[training.id, attempt.number] = str(error)

    def _forget(self, ended: list[Event]) -> None:
        for event in ended:
            assert event.training is not None
            assert event.attempt is not None
            self._not_started.pop((event.training, event.attempt), None)
            own = self._own.pop((event.training, event.attempt), None)
            if own is not None:
                own.wait()  # it has ended: this only takes its status from the system

    def _send_signals(self, state: QueueState) -> None:
        """Also those that an earlier scheduler decided on: a second one of a kind changes nothing."""
        for each in state.having("running"):
            number = signal.SIGTERM if each.is_cancelled else signal.SIGUSR1 if each.is_asked else None
            if number is None:
                continue
            attempt = each.attempts[-1]
            key = (each.id, attempt.number, int(number))
            if key not in self._sent and self._open(each, attempt).send(number):
                self._sent.add(key)

    def _open(self, training: QueuedTraining, attempt: Attempt) -> AttemptFolder:
        return AttemptFolder(self.table.path, training.id, attempt.number)


def _count_used(state: QueueState, group: str) -> dict[int, float]:
    """GPU of a group -> the part of it that running trainings have."""
    used: dict[int, float] = {}
    for each in state.having("running"):
        attempt = each.attempts[-1]
        if attempt.group == group:
            for gpu in attempt.gpus or ():
                used[gpu] = used.get(gpu, 0.0) + each.needs.gpus / len(attempt.gpus or ())
    return used
