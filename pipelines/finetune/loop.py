"""The one training loop, for every strategy, task and model.

Every step trains on one full global batch drawn by `Order`. Its rows are dealt to data replicas in turn and
cut into micro-batches. The loss is divided by the targets of the global batch, so without dropout losses and
weights do not depend on the number of ranks, except for the order of float additions. Dropout draws from
(seed, step, data rank), one micro-batch after the other: a resumed step repeats itself exactly, but other
numbers of ranks or micro-batches drop other units.

A thread reads and pads micro-batches ahead. It draws no random numbers, so nothing depends on how far it is.
"""

import math
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines.dataset.order import Order
from pipelines.dataset.reader import SequenceReader
from pipelines.finetune.lack_of_memory import explain_update
from pipelines.finetune.loss_scale import UNSCALED, LossScale
from pipelines.finetune.optimization import Optimization, learning_rate
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.prefetch import prefetch
from pipelines.finetune.tasks.task import Batch, Draw, Task
from pipelines.finetune.times.clock import part, take_timed
from pipelines.finetune.times.meter import StepMeter
from pipelines.finetune.training import BatchPlan


class StepResult(NamedTuple):
    loss: float
    """Mean over the targets of the global batch, before the update. Under local SGD, between
    synchronisations, that of this rank's rows."""
    gradient_norm: float
    """Before clipping; under local SGD that of this rank."""
    learning_rate: float
    num_tokens: int
    """Tokens of the global batch, without padding."""
    seconds: float
    loss_scale: float | None = None
    """Of the next step; None = the precision needs none."""
    num_skipped: int = 0
    """Steps so far, this one included, that changed nothing because a gradient in float16 was not finite."""


def train(
    strategy: Strategy,
    task: Task,
    reader: SequenceReader,
    order: Order,
    *,
    steps: range,
    plan: BatchPlan,
    optimization: Optimization,
    seed: int,
    scale: LossScale = UNSCALED,
    meter: StepMeter | None = None,
    is_asked: Callable[[], bool] = lambda: False,
    after_step: Callable[[int, StepResult, np.ndarray, bool], bool],
) -> None:
    """Run `steps`, which end at the last step of the training. `strategy` is built.

    `after_step(num_steps_done, result, rows, makes_room)` is called on every rank after every step, with the
    rows of the global batch; `makes_room`: `is_asked()`, which stays true, was so on a rank. If it is true,
    the training ends early; all ranks must say the same. `meter` adds up the times of the ranks with the
    losses; `part` marks what they are times of.
    Raises FloatingPointError if loss or gradient is not finite, with a dynamic `scale` only after many steps
    in a row, MemoryError with the remedies if memory does not suffice.
    """
    # From here on only the thread asks `order`, which keeps a window.
    with prefetch(_make_batches(strategy, task, reader, order, steps, plan, seed)) as source:
        made = take_timed(source, "data")
        for step in steps:
            started = time.monotonic()
            parts = islice(made, plan.num_micro_batches)
            rows, first = next(parts)  # rows: (global_batch,), the same on every rank
            rate = learning_rate(step, steps.stop, optimization)
            torch.manual_seed(_dropout_seed(seed, step, strategy.data_rank))
            batches = chain([first], (batch for _, batch in parts))
            num_targets = max(1, int(task.count_targets(reader.num_targets[rows]).sum()))
            used = scale.value
            with part("forward_backward"):
                share = strategy.forward_backward(batches, task, num_targets=num_targets / used)
            with explain_update(), part("optimizer"):
                limit = optimization.max_gradient_norm
                norm = strategy.step(max_norm=limit, learning_rate=rate, loss_scale=used)
            loss, makes_room = _exchange(strategy, meter, share, is_asked(), step, rows)
            loss /= used
            goes_on = scale.update(is_finite=math.isfinite(norm))
            # A loss that is not finite without a reason in its gradient: no other scale would help.
            if not goes_on or (math.isfinite(norm) and not math.isfinite(loss)):
                raise FloatingPointError(_explain_not_finite(step, rows, loss, norm, scale))
            num_tokens, seconds = int(reader.lengths[rows].sum()), time.monotonic() - started
            result = StepResult(loss, norm, rate, num_tokens, seconds, **scale.describe())
            if after_step(step + 1, result, rows, makes_room):
                break


def _exchange(
    strategy: Strategy, meter: StepMeter | None, share: Tensor, asks: bool, step: int, rows: np.ndarray
) -> tuple[float, bool]:
    """The mean loss, and whether a rank was asked to make room: one exchange for both, and for the times.

    Under local SGD no rank waits for another between synchronisations: the loss is that of this rank, and a
    request waits for the next one.
    """
    if meter is not None:
        meter.count(step, rows)
    if not strategy.is_common:
        return float(share) * strategy.num_replicas, False
    own = torch.cat([share, share.new_full((1,), float(asks))])  # (2,)
    sums = strategy.sum(own, name="loss") if meter is None else meter.sum(own)
    loss, num_asking = sums.tolist()
    return loss, num_asking > 0


def _explain_not_finite(step: int, rows: np.ndarray, loss: float, norm: float, scale: LossScale) -> str:
    skipped, advice = "", ""
    if scale.num_skipped_in_row:
        skipped = f", after {scale.num_skipped_in_row - 1} skipped steps in a row that lowered the loss scale"
        advice = "set finetune.precision=bfloat16 or float32, "
    return (
        f"loss is {loss} and gradient norm {norm} at step {step + 1}{skipped}; {advice}"
        f"lower finetune.optimization.learning_rate, or look at the {len(rows)} rows of this "
        f"step, {', '.join(map(str, rows[:8].tolist()))}, ...: "
        f"distributary trace --step {step + 1} --run RUN_ID"
    )


def _make_batches(
    strategy: Strategy,
    task: Task,
    reader: SequenceReader,
    order: Order,
    steps: range,
    plan: BatchPlan,
    seed: int,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """The rows of the global batch and one micro-batch of this rank, for every micro-batch of every step."""
    for step in steps:
        rows = order.batch(step)
        for mine in plan.micro_batches(rows, strategy.data_rank):
            yield rows, task.collate(reader.rows(mine), strategy.device, Draw(mine, seed, step))


def _dropout_seed(seed: int, step: int, data_rank: int) -> int:
    """63 bits. Ranks that see the same rows drop the same units."""
    return int(np.random.SeedSequence([seed, step, data_rank]).generate_state(1, np.uint64)[0] >> 1)
