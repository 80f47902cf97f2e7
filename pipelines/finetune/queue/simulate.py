"""A queue simulated by discrete events (simpy): the policies of the scheduler on trainings that take no time.

What it leaves out: that trainings on one machine slow each other down, failures, and the second between two
looks of the scheduler. A start costs `start_seconds` (Spark, the first evaluation) during which nothing is
learned; making room costs `stop_seconds`, until the next step has ended and its checkpoint is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.finetune.queue.load import Load
from pipelines.finetune.queue.policies import Policy
from pipelines.finetune.queue.reservation import Start
from pipelines.finetune.queue.resources import Resources, Running, Waiting
from pipelines.queue_charts import Bar

if TYPE_CHECKING:
    from simpy import Environment, Process

LEAST_LEFT = 0.05
"""Of the expected time: what a training that is late is expected to need still, as in `state`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a policy made of a load. Times in seconds."""

    makespan: float
    """From the first arrival to the last end."""
    waits: np.ndarray
    """(num_trainings,): from arrival to end, without the time in which it ran."""
    slowdowns: np.ndarray
    """(num_trainings,): from arrival to end, over the time that it runs alone."""
    utilisation: dict[str, float]
    """slots, gpus, memory_gb: share of makespan x all that there is; what no group has is left out."""
    num_preempted: int
    num_late: int
    """Trainings that missed their deadline."""
    bars: list[Bar]


@dataclass(slots=True)
class _Job:
    load: Load
    left: float
    ran: float = 0.0
    ended_at: float = 0.0
    process: "Process | None" = None
    running: Running | None = None
    is_stopping: bool = False


@dataclass(slots=True)
class Simulation:
    """Call `run` once."""

    policy: Policy
    resources: Resources
    start_seconds: float = 20.0
    stop_seconds: float = 5.0
    _waiting: dict[int, _Job] = field(default_factory=dict)
    _running: dict[int, _Job] = field(default_factory=dict)
    _bars: list[Bar] = field(default_factory=list)
    _num_preempted: int = 0

    def run(self, loads: Sequence[Load]) -> Result:
        """Raises ValueError if a training fits into no group, ImportError without simpy."""
        try:
            import simpy
        except ImportError as error:
            raise ImportError("queue simulate needs simpy; install the [simulate] extra") from error
        for each in loads:
            if not _as_waiting(_Job(each, each.seconds)).list_groups(self.resources):
                raise ValueError(
                    f"training {each.id} needs {each.needs.slots} slots, {each.needs.gpus:g} GPUs and "
                    f"{each.needs.memory_gb:g} GB, and no group of queue.resources is so large; correct "
                    "queue.resources or the trainings"
                )
        jobs = [_Job(each, each.seconds) for each in sorted(loads, key=lambda each: each.added_at)]
        world = simpy.Environment()
        world.process(self._arrive(world, jobs))
        world.run()
        assert not self._waiting, "a policy that starts nothing on empty machines would wait for ever"
        return self._summarise(jobs)

    def _arrive(self, world: "Environment", jobs: list[_Job]) -> Any:
        for job in jobs:
            yield world.timeout(job.load.added_at - world.now)
            self._waiting[job.load.id] = job
            self._decide(world)

    def _decide(self, world: "Environment") -> None:
        waiting = [_as_waiting(job) for job in self._waiting.values()]
        running = [_as_running(job) for job in self._running.values()]
        for decision in self.policy.choose(waiting, running, self.resources, world.now):
            if isinstance(decision, Start):
                job = self._waiting.pop(decision.id)
                self._running[decision.id] = job
                job.running = Running(
                    id=decision.id,
                    needs=job.load.needs,
                    group=decision.group,
                    started_at=world.now,
                    priority=job.load.priority,
                    deadline=job.load.deadline,
                )
                job.process = world.process(self._train(world, job))
            else:
                job = self._running[decision.id]
                job.is_stopping = True
                assert job.process is not None
                job.process.interrupt()

    def _train(self, world: "Environment", job: _Job) -> Any:
        import simpy

        started = world.now
        try:
            yield world.timeout(self.start_seconds + job.left)
            job.left, job.ended_at = 0.0, world.now
        except simpy.Interrupt:
            self._num_preempted += 1
            done_at = started + self.start_seconds + job.left
            yield world.timeout(min(self.stop_seconds, done_at - world.now))
            job.left -= max(0.0, world.now - started - self.start_seconds)
            job.ended_at = world.now
        self._end(world, job, started)

    def _end(self, world: "Environment", job: _Job, started: float) -> None:
        assert job.running is not None
        job.ran += world.now - started
        self._bars.append(
            Bar(
                name=str(job.load.id),
                colour=f"priority {job.load.priority}",
                group=job.running.group,
                slots=job.load.needs.slots,
                start=started,
                end=world.now,
                note="preempted" if job.left > 0 else "",
            )
        )
        del self._running[job.load.id]
        job.running, job.process, job.is_stopping = None, None, False
        if job.left > 1e-9:
            self._waiting[job.load.id] = job
        self._decide(world)

    def _summarise(self, jobs: list[_Job]) -> Result:
        first, last = min(job.load.added_at for job in jobs), max(job.ended_at for job in jobs)
        makespan = last - first
        spans = np.array([job.ended_at - job.load.added_at for job in jobs])
        ran = np.array([job.ran for job in jobs])
        whole = np.sum([each.parts() for each in self.resources.values()], axis=0)
        work = np.sum([np.array(job.load.needs.parts()) * job.ran for job in jobs], axis=0)
        used = {
            name: float(work[part] / (whole[part] * makespan))
            for part, name in enumerate(("slots", "gpus", "memory_gb"))
            if whole[part]
        }
        return Result(
            makespan=makespan,
            waits=spans - ran,
            slowdowns=spans / np.array([job.load.seconds for job in jobs]),
            utilisation=used,
            num_preempted=self._num_preempted,
            num_late=sum(job.ended_at > job.load.deadline for job in jobs),
            bars=self._bars,
        )


def _expected_left(job: _Job) -> float:
    done = job.load.seconds - job.left
    return max(job.load.expected_seconds - done, LEAST_LEFT * job.load.expected_seconds)


def _as_waiting(job: _Job) -> Waiting:
    load = job.load
    return Waiting(
        id=load.id,
        needs=load.needs,
        added_at=load.added_at,
        seconds=_expected_left(job),
        priority=load.priority,
        deadline=load.deadline,
        group=load.group,
    )


def _as_running(job: _Job) -> Running:
    running = job.running
    assert running is not None
    return Running(
        id=running.id,
        needs=running.needs,
        group=running.group,
        started_at=running.started_at,
        ends_at=running.started_at + _expected_left(job),
        priority=running.priority,
        deadline=running.deadline,
        is_stopping=job.is_stopping,
    )
