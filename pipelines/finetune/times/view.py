"""What a rank watches while it trains: the times of its steps, its machine, and whether all ranks hold the
same state."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from pipelines.dataset.reader import SequenceReader
from pipelines.finetune.events import EventWriter
from pipelines.finetune.flops import Flops
from pipelines.finetune.launch.world import World
from pipelines.finetune.parallel.replicas import compare_replicas
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.peak import find_peak_flops
from pipelines.finetune.times.clock import make_clock, measure
from pipelines.finetune.times.meter import StepMeter, gather_hosts
from pipelines.finetune.times.parts import END, KIND
from pipelines.finetune.times.system import NAMES, make_measure
from pipelines.finetune.training import BatchPlan, Training


class StepView:
    """Of one rank; all ranks make the same calls."""

    def __init__(
        self,
        training: Training,
        strategy: Strategy,
        world: World,
        reader: SequenceReader,
        plan: BatchPlan,
        flops: Flops,
    ) -> None:
        """Collective. Raises ValueError if replicas shall be compared and none are, ImportError without what
        the system metrics need."""
        self._strategy, self._every = strategy, training.execution.compare_replicas_every_steps
        if self._every is not None and strategy.num_replicas > 1 and not any(strategy.replicated()):
            raise ValueError(
                f"finetune.compare_replicas_every_steps is {self._every}, but under strategy "
                f"{training.execution.strategy} no rank holds what another one has; set it to null"
            )
        self._hosts = gather_hosts(strategy, world.host)

        def count(rows: np.ndarray) -> tuple[int, float]:
            mine = plan.deal(rows, strategy.data_rank)
            lengths = reader.lengths[mine]
            return int(lengths.sum()), flops.count(lengths, reader.num_targets[mine])

        has_system = training.execution.system_metrics
        self._clock = make_clock(strategy.device)
        self.meter = StepMeter(
            self._clock,
            strategy,
            log_every_steps=training.cadence.log_every_steps,
            count=count,
            peak_flops=find_peak_flops(training, strategy.device),
            hosts=self._hosts,
            names=NAMES if has_system else (),
            measure=make_measure(strategy.device, world.local_rank) if has_system else dict,
        )

    @contextmanager
    def measure(self) -> Iterator[None]:
        """The time of the context is measured."""
        self._clock.read()
        with measure(self._clock):
            yield

    def look(self, step: int, events: EventWriter) -> None:
        """After `step`: write what was measured, compare the replicas if it is time. Raises
        ReplicasDifferError."""
        report = self.meter.take_report()
        if report is not None and self._strategy.rank == 0:
            events.write(KIND, step=step, **report)
        if self._every is not None and step % self._every == 0 and self._strategy.num_replicas > 1:
            compare_replicas(self._strategy, step=step, hosts=self._hosts)

    def finish(self, step: int, events: EventWriter) -> None:
        """After the last step: write what was measured since it."""
        report = self.meter.finish()
        if self._strategy.rank == 0:
            events.write(KIND, step=step, split=END, **report)
