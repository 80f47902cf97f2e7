"""Sharded optimizer (ZeRO stage 1, Rajbhandari et al. 2020): whole weights on every rank, 1/N of the
optimizer state.

Each gradient bucket is cut into N equal slices. Rank r gets slice r of the summed gradients (reduce-scatter),
updates the pieces of parameters that lie in it, and the ranks exchange the updated slices (all-gather). The
same bytes travel as in data parallel; AdamW's two moments take 1/N of the memory. AdamW works on each element
alone, so the result equals that of whole parameters.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.finetune.average import WeightAverage
from pipelines.finetune.checkpoint.format import Piece, TrainState, find_base
from pipelines.finetune.checkpoint.part import Part, model_tensors
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import Trainable, build_optimizer, set_learning_rate
from pipelines.finetune.parallel import group, replica
from pipelines.finetune.parallel.buckets import Bucket, GradientBuckets
from pipelines.finetune.parallel.collectives.interface import Collectives
from pipelines.finetune.parallel.strategy import BuildModel, PartWriter
from pipelines.finetune.rank_budget import require_no_budget
from pipelines.finetune.tasks.task import Batch, Task
from pipelines.storage import Folder


class OwnedPiece(NamedTuple):
    """A piece of a parameter that this rank updates."""

    piece: Piece
    parameter: nn.Parameter
    """The whole parameter."""
    tensor: nn.Parameter
    """(num_elements,) view of the piece: updating it updates the model."""
    gradient: Tensor
    """(num_elements,) view into the bucket."""


class ShardedOptimizer:
    """See strategy.Strategy for what each member does."""

    is_common, traffic = True, None

    def __init__(self, collectives: Collectives, device: torch.device) -> None:
        self._collectives, self.device = collectives, device
        self.rank, self.world_size = collectives.rank, collectives.world_size
        self.data_rank, self.num_replicas = self.rank, self.world_size
        self._model: nn.Module
        self._optimizer: Optimizer
        self._average: WeightAverage
        self._gradients: GradientBuckets
        self._owned: list[OwnedPiece]
        self._num_micro_batches: int

    def build(
        self,
        build_model: BuildModel,
        optimization: Optimization,
        *,
        num_micro_batches: int,
        checkpoints: Folder,
    ) -> TrainState:
        optimization.require_shardable("sharded_optimizer")
        self._num_micro_batches = num_micro_batches
        self._model = replica.prepare_model(self, build_model, checkpoints)
        require_no_budget(self._model)
        self._gradients = GradientBuckets(
            self._model,
            lambda bucket, name: self._collectives.reduce_scatter(bucket.flat, name=name),
            with_flags=False,
            multiple=self.world_size,
        )
        self._owned = [
            owned for bucket in self._gradients.buckets for owned in _own(bucket, self.rank, self.world_size)
        ]
        self._optimizer = build_optimizer(
            [Trainable(each.piece.name, each.tensor, each.parameter.ndim) for each in self._owned],
            optimization,
        )
        self._average = WeightAverage(self._tensors(), optimization)
        state = replica.restore(
            self,
            build_model,
            self._model,
            self._optimizer,
            self._tensors(),
            self._average,
            checkpoints=checkpoints,
        )
        group.broadcast_weights(self._collectives, self._model)
        self._average.begin(state)
        return state

    def _show(self, *, mean: bool) -> None:
        """The mean of the weights or the weights, whole on every rank."""
        if self._average.show(mean):
            self._gather_weights()

    def _tensors(self) -> dict[Piece, nn.Parameter]:
        return {each.piece: each.tensor for each in self._owned}

    def forward_backward(self, batches: Iterable[Batch], task: Task, *, num_targets: float) -> Tensor:
        self._show(mean=False)
        return replica.accumulate_and_send(
            self._model,
            self._gradients,
            batches,
            task,
            num_targets=num_targets,
            num_micro_batches=self._num_micro_batches,
            gather=partial(group.gather_rows, self._collectives),
        )

    def step(self, *, max_norm: float, learning_rate: float, loss_scale: float = 1.0) -> float:
        set_learning_rate(self._optimizer, learning_rate)
        self._gradients.wait()
        norm, used = self._sum_norm_and_use(loss_scale)
        if not math.isfinite(norm):
            return norm
        scale = min(1.0, max_norm / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_
        for each in self._owned:
            # As in one process: a parameter that got no gradient on any rank gets no update and no decay.
            each.tensor.grad = each.gradient.mul_(scale / loss_scale) if each.parameter in used else None
        self._optimizer.step()
        self._average.update()
        self._gather_weights()
        return norm

    def _sum_norm_and_use(self, loss_scale: float) -> tuple[float, set[nn.Parameter]]:
        """L2 norm of the whole gradient over `loss_scale`, and the parameters that got a gradient on some
        rank: one exchange for both.
        """
        parameters = [slot.parameter for bucket in self._gradients.buckets for slot in bucket.slots]
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for each in self._owned:
            squares += (each.gradient.double() / loss_scale).square().sum()
        flags = [float(parameter in self._gradients.touched) for parameter in parameters]
        summed = self.sum(torch.tensor([float(squares), *flags], dtype=torch.float64), name="norm").tolist()
        used = {parameter for parameter, flag in zip(parameters, summed[1:], strict=True) if flag}
        return float(summed[0]) ** 0.5, used

    def _gather_weights(self) -> None:
        """Every rank's updated pieces on every rank. The buckets carry them: their gradients are no longer
        needed.
        """
        for each in self._owned:
            each.gradient.copy_(each.tensor.detach())
        pending = [
            self._collectives.all_gather(bucket.flat, name=f"weights.{number}")
            for number, bucket in enumerate(self._gradients.buckets)
        ]
        for bucket, operation in zip(self._gradients.buckets, pending, strict=True):
            operation.wait()
            for slot in bucket.slots:
                slot.parameter.detach().copy_(bucket.view(slot))
                slot.parameter.grad = None  # it was a view of the buffer

    def forward(self, batch: Batch) -> Tensor:
        self._show(mean=True)
        return replica.run_forward(self._model, batch)

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        return group.sum_over(self._collectives, value, name)

    def replicated(self) -> Iterable[tuple[str, Tensor]]:
        return replica.list_replicated(self._model, None)

    def agree(self, value: float = 0.0) -> float:
        return group.agree_on(self._collectives, value)

    def save(self, checkpoints: PartWriter, state: TrainState) -> None:
        self._show(mean=True)
        weights: dict[Piece, Tensor] = dict(self._tensors())
        tensors = model_tensors(self._model)
        if self.rank == 0:  # and what no rank updates
            updated = {slot.name for bucket in self._gradients.buckets for slot in bucket.slots}
            for name, tensor in tensors.items():
                if name not in updated and tensor.numel():
                    weights[Piece(name, 0, tensor.numel())] = tensor.reshape(-1)
        part = Part(
            weight_pieces=weights,
            shapes={name: list(tensor.shape) for name, tensor in tensors.items()},
            states=self._average.add_to(replica.optimizer_states(self._optimizer, self._tensors())),
            base=find_base(self._model),
            number=self.rank,
            num_parts=self.world_size,
        )
        checkpoints.write(part, state)

    def load_weights(self, checkpoints: Folder, step: int) -> None:
        self._show(mean=True)
        group.load_and_broadcast(self._collectives, self._model, checkpoints, step)

    def export(self) -> nn.Module | None:
        self._show(mean=True)
        return self._model.eval() if self.rank == 0 else None

    def num_state_bytes(self) -> int:
        """Bytes of optimizer state on this rank."""
        return sum(tensor.nbytes for state in self._optimizer.state.values() for tensor in state.values())


def _own(bucket: Bucket, rank: int, world_size: int) -> Iterator[OwnedPiece]:
    """The pieces of the bucket's parameters that lie in this rank's slice."""
    size = bucket.flat.numel() // world_size
    for slot in bucket.slots:
        start, stop = max(slot.start, rank * size), min(slot.stop, (rank + 1) * size)
        if start < stop:
            piece = Piece(slot.name, start - slot.start, stop - slot.start)
            tensor = nn.Parameter(slot.parameter.detach().view(-1)[piece.start : piece.stop])
            yield OwnedPiece(piece, slot.parameter, tensor, bucket.flat[start:stop])
