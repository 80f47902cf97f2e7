"""Training steps of tasks that compare the rows of a whole global batch, over micro-batches and ranks.

The outputs of all micro-batches of all replicas come together, every replica computes the same loss of all
of them, and the gradient of its own outputs goes back through its own micro-batches; the sum over replicas is
the gradient of the global batch. With several micro-batches the outputs are computed twice: first without a
graph, then, when the gradient of the outputs is known, one micro-batch after the other with its graph
(GradCache; Gao 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup). So memory is
that of one micro-batch, and the result does not depend on their number. Dropout draws the same units in both
passes. With one micro-batch there is one pass.

Cost of several micro-batches: one more forward pass. Between ranks travel outputs and targets: for 2,048
texts of 384 float32 numbers, 3 MB a step.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipelines.finetune.lack_of_memory import explain_batch, explain_comparison
from pipelines.finetune.tasks.task import Batch, Task


class Compared(NamedTuple):
    """Outputs and targets, one row of each for each thing that is compared."""

    outputs: Tensor
    targets: Tensor


class Gathered(NamedTuple):
    """The rows of all replicas, in the order of their ranks."""

    rows: Compared
    own: slice
    """Those of this replica."""
    num_replicas: int


Gather = Callable[[Compared], Gathered]
"""Collective: the rows of this replica to those of all. Numbers of rows may differ."""


def keep_rows(rows: Compared) -> Gathered:
    """The only replica has all rows."""
    return Gathered(rows, slice(0, len(rows.outputs)), 1)


def join_batches(outputs: Sequence[Tensor], batches: Sequence[Batch]) -> tuple[Tensor, Batch]:
    """Outputs and batches as if they were one; without the inputs, which have been used."""
    if len(batches) == 1:
        return outputs[0], batches[0]
    targets = torch.cat([batch.targets for batch in batches])
    return torch.cat(list(outputs)), Batch({}, targets, sum(batch.num_bytes for batch in batches))


def accumulate_compared(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Task,
    *,
    num_targets: float,
    gather: Gather,
    before_pass: Callable[[int], None],
) -> Tensor:
    """As `replica.accumulate`, for a task that compares rows; collective."""
    model.train()
    held = list(batches)
    if len(held) == 1:
        before_pass(1)
        with explain_batch(model, held[0]):
            outputs = model(**held[0].inputs)
        share, (gradient,) = _differentiate([outputs.detach()], held, task, num_targets, gather)
        with explain_batch(model, held[0]):
            outputs.backward(gradient)
        return share
    states, outputs_of = [], []
    with torch.no_grad():
        for batch in held:
            states.append(_RandomState.save(batch.targets.device))
            with explain_batch(model, batch):
                outputs_of.append(model(**batch.inputs))
    share, gradients = _differentiate(outputs_of, held, task, num_targets, gather)
    for number, (batch, state, gradient) in enumerate(zip(held, states, gradients, strict=True), 1):
        before_pass(number)
        state.restore()
        with explain_batch(model, batch):
            model(**batch.inputs).backward(gradient)
    return share


def _differentiate(
    outputs: Sequence[Tensor], batches: Sequence[Batch], task: Task, num_targets: float, gather: Gather
) -> tuple[Tensor, Sequence[Tensor]]:
    """This replica's share of the mean loss, (1,) float64, and the gradient of the outputs of each of its
    micro-batches."""
    mine, joined = join_batches(outputs, batches)
    gathered = gather(Compared(mine, joined.targets))
    everything = gathered.rows.outputs.detach().requires_grad_()
    with explain_comparison(mine):
        loss = task.loss_sum(everything, Batch({}, gathered.rows.targets, joined.num_bytes)) / num_targets
        (gradient,) = torch.autograd.grad(loss, everything)
    # Every replica has computed the loss of all: the shares add up to it.
    share = loss.detach().double().reshape(1) / gathered.num_replicas
    return share, gradient[gathered.own].split([len(each) for each in outputs])


class _RandomState(NamedTuple):
    """Where the random numbers of dropout stand."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @classmethod
    def save(cls, device: torch.device) -> "_RandomState":
        on_gpu = device.type == "cuda"
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None, device)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
