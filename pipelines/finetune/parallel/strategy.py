"""The seam between the loop and everything that depends on how many ranks there are and what each of them
holds.

Why it is exactly this wide, by the strategy that needs each member:

- `build` creates model and optimizer, because fully sharded and tensor parallel strategies replace the
  parameters before the optimizer may see them, and because only the strategy knows which rank needs which
  weights: one reads them from the checkpoint or the base model and the others receive them, or each reads its
  shard.
- `data_rank` and `num_replicas` deal the rows: the ranks of one tensor-parallel or pipeline group see the
  same rows.
- `forward_backward` runs all micro-batches of a step, because a pipeline schedule runs forward and backward
  itself, and because a task may compare the rows of all of them, on all ranks (whole_batch.py).
- `step` synchronises, clips and updates in one call, because the norm of sharded gradients needs a sum over
  ranks, and local SGD decides here whether it communicates at all.
- `forward` is the evaluation: in a pipeline only the last rank has the logits and sends them to its group.
- `sum` goes over data replicas only: in a tensor-parallel group every rank holds the same loss.
- `replicated` says what can be compared: sharded parts have no copy.
- `is_common` is there because under local SGD no rank waits for another between synchronisations.
- `agree` is the one way in which ranks decide together.
- `save` and `build` write and read state whole or as one shard per rank; `load_weights` goes back to the best
  checkpoint; `export` gathers whole weights on rank 0 only, since a copy on every rank would defeat the
  purpose of sharding.

Every member but the attributes is collective: all ranks call it, in the same order.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pipelines.finetune.checkpoint.format import TrainState
from pipelines.finetune.checkpoint.part import Part
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.tasks.task import Batch, Task
from pipelines.storage import Folder


class PartWriter(Protocol):
    """Takes what a rank writes of a checkpoint; see checkpoint.writer. Collective."""

    def write(self, part: Part | None, state: TrainState) -> None: ...


BuildModel = Callable[[bool], nn.Module]
"""build_model(load_weights): False gives the same structure without reading base weights. On the CPU; the
strategy moves it.
"""


class Traffic(NamedTuple):
    """What a rank has sent since the first step to keep the weights together, as over a ring."""

    sent_bytes: int
    synchronous_bytes: int
    """The same of data parallel."""


class Strategy(Protocol):
    rank: int
    world_size: int
    data_rank: int
    """Which share of a global batch this rank sees; from 0."""
    num_replicas: int
    """Number of shares."""
    device: torch.device

    @property
    def is_common(self) -> bool:
        """Whether all replicas have exchanged what they learnt in the last step, so that they hold the same
        weights. Only then do they exchange the losses and times of steps. The same on all ranks.
        """
        ...

    @property
    def traffic(self) -> Traffic | None:
        """None where all replicas exchange all gradients at every step."""
        ...

    def build(
        self,
        build_model: BuildModel,
        optimization: Optimization,
        *,
        num_micro_batches: int,
        checkpoints: Folder,
    ) -> TrainState:
        """Model and optimizer as the newest readable checkpoint has them, or as at step 0; where training
        stands.

        Parameters keep the type that `build_model` gives them. `num_micro_batches`: backward passes per step.
        """
        ...

    def forward_backward(self, batches: Iterable[Batch], task: Task, *, num_targets: float) -> Tensor:
        """Gradients of this rank's share of a global batch; its share of the mean loss, (1,) float64 on the
        device.

        `batches` are `num_micro_batches` micro-batches. `num_targets`: of the whole global batch; losses are
        divided by it. With a loss scale it is divided by that, and the loss and its gradients are scaled.
        """
        ...

    def step(self, *, max_norm: float, learning_rate: float, loss_scale: float = 1.0) -> float:
        """Sum the gradients over replicas, divide them by `loss_scale`, clip them to `max_norm`, update the
        weights; the L2 norm before clipping. If it is not finite, nothing is updated.
        """
        ...

    def forward(self, batch: Batch) -> Tensor:
        """The model's outputs in evaluation mode, without gradients. With a running mean of the weights
        (`ema_decay`) they are those of the mean, as are the weights in `save`, `load_weights` and `export`.
        """
        ...

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        """`value` summed over replicas, on the CPU of every rank. `name` and shape must be the same on all
        ranks.
        """
        ...

    def replicated(self) -> Iterable[tuple[str, Tensor]]:
        """The tensors that every data replica holds alike after a step, by name: weights, and optimizer state
        that is not sharded. The same names in the same order on every rank. Not collective.
        """
        ...

    def agree(self, value: float = 0.0) -> float:
        """Rank 0's `value`. Also an order in time: files that rank 0 wrote before are visible to all ranks
        afterwards.
        """
        ...

    def save(self, checkpoints: PartWriter, state: TrainState) -> None:
        """Give what this rank holds of the checkpoint of `state.step` to `checkpoints`. The tensors may
        change as soon as this returns.
        """
        ...

    def load_weights(self, checkpoints: Folder, step: int) -> None:
        """The weights of checkpoint `step`, without optimizer state: for the last evaluation and the
        export.
        """
        ...

    def export(self) -> nn.Module | None:
        """On rank 0 the model with all of its weights, in evaluation mode; None on other ranks."""
        ...
