"""The one training loop: forward, backward, step, whatever the strategy, task or model.

Every step trains on one full global batch drawn by `Order`, whose rows are dealt to ranks in turn and cut into micro-batches. The
loss is normalised by the targets of the global batch, so losses and weights do not depend on the number of ranks (but for the
order of float additions) as long as nothing is dropped out. Dropout draws from (seed, step, rank) and one micro-batch after the
other: a resumed step repeats itself exactly, but other ranks or micro-batches drop other units.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from pipelines.dataset.order import Order
from pipelines.dataset.reader import SequenceReader
from pipelines.finetune.optimizer import Optimization, learning_rate, set_learning_rate
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.tasks.task import Task


class StepResult(NamedTuple):
    loss: float
    """Mean over the targets of the global batch, before the update."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    num_tokens: int
    """Real tokens of the global batch."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """How a global batch falls to ranks and micro-batches."""

    global_batch: int
    micro_batch: int
    """Most rows a rank holds in one forward pass."""
    world_size: int

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.micro_batch < 1:
            raise ValueError(
                f"global_batch and micro_batch must be at least 1, got {self.global_batch} and {self.micro_batch}"
            )
        if self.global_batch % self.world_size:
            near = max(1, round(self.global_batch / self.world_size)) * self.world_size
            raise ValueError(
                f"global_batch must be a multiple of num_ranks ({self.world_size}), got {self.global_batch}; "
                f"try {near}"
            )

    @property
    def accumulation(self) -> int:
        """Backward passes a step."""
        return -(-self.global_batch // self.world_size // self.micro_batch)

    def micro_batches(self, rows: np.ndarray, rank: int) -> Iterator[np.ndarray]:
        """This rank's rows of a global batch, in `accumulation` parts."""
        yield from np.array_split(rows[rank :: self.world_size], self.accumulation)


def train(
    model: nn.Module,
    task: Task,
    reader: SequenceReader,
    order: Order,
    *,
    optimizer: Optimizer,
    optimization: Optimization,
    strategy: Strategy,
    plan: BatchPlan,
    first_step: int,
    total_steps: int,
    seed: int,
    after_step: Callable[[int, StepResult], None],
) -> None:
    """Run steps first_step .. total_steps - 1; `optimizer` is already wrapped. `after_step` gets the number of steps done."""
    for step in range(first_step, total_steps):
        started = time.monotonic()
        model.train()
        rows = order.batch(step)
        rate = learning_rate(step, total_steps, optimization)
        set_learning_rate(optimizer, rate)
        torch.manual_seed(
            int(np.random.SeedSequence([seed, step, strategy.rank]).generate_state(1, np.uint64)[0] >> 1)
        )
        optimizer.zero_grad()
        share = _accumulate(model, task, reader, rows, strategy, plan)
        norm = strategy.step(optimizer, max_norm=optimization.max_gradient_norm)
        loss = float(strategy.sum(share, name="loss"))
        if not (np.isfinite(loss) and np.isfinite(norm)):
            raise FloatingPointError(
                f"loss is {loss} and gradient norm {norm} at step {step}; lower "
                "finetune.optimization.learning_rate or look at the rows with sequence_id in "
                f"{rows[:8].tolist()}..."
            )
        num_tokens = int(reader.lengths[rows].sum())
        after_step(step + 1, StepResult(loss, norm, rate, num_tokens, time.monotonic() - started))


def _accumulate(
    model: nn.Module,
    task: Task,
    reader: SequenceReader,
    rows: np.ndarray,
    strategy: Strategy,
    plan: BatchPlan,
) -> torch.Tensor:
    """Backward over this rank's micro-batches; its share of the mean loss of the global batch."""
    num_targets = max(1, int(reader.num_targets[rows].sum()))
    share = torch.zeros(1, dtype=torch.float64)
    for micro_batch in plan.micro_batches(rows, strategy.rank):
        batch = task.collate(reader.rows(micro_batch), strategy.device)
        loss = task.loss_sum(model(**batch.inputs), batch) / num_targets
        # Averaging gradients over ranks divides by their number; this undoes it.
        (loss * strategy.world_size).backward()
        share += loss.detach().double().cpu()
    return share
