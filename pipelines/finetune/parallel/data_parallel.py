"""Data parallel: every rank holds the whole model and optimizer; gradients are summed while backward still
runs.

A loss is divided by the targets of the global batch before backward, so the sum of gradients over ranks is
the gradient of the global mean loss, and no average is needed.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.finetune.average import WeightAverage
from pipelines.finetune.checkpoint.format import TrainState
from pipelines.finetune.checkpoint.part import whole_part
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import build_optimizer, list_trainable, new_state, set_learning_rate
from pipelines.finetune.parallel import group, replica
from pipelines.finetune.parallel.buckets import GradientBuckets
from pipelines.finetune.parallel.collectives.interface import Collectives, broadcast_tensors
from pipelines.finetune.parallel.strategy import BuildModel, PartWriter
from pipelines.finetune.rank_budget import RankBudget
from pipelines.finetune.tasks.task import Batch, Task
from pipelines.storage import Folder


class DataParallel:
    """See strategy.Strategy for what each member does."""

    is_common, traffic = True, None

    def __init__(self, collectives: Collectives, device: torch.device) -> None:
        self._collectives, self.device = collectives, device
        self.rank, self.world_size = collectives.rank, collectives.world_size
        self.data_rank, self.num_replicas = self.rank, self.world_size
        self._model: nn.Module
        self._optimizer: Optimizer
        self._average: WeightAverage
        self._budget: RankBudget
        self._gradients: GradientBuckets
        self._num_micro_batches: int

    def build(
        self,
        build_model: BuildModel,
        optimization: Optimization,
        *,
        num_micro_batches: int,
        checkpoints: Folder,
    ) -> TrainState:
        self._num_micro_batches = num_micro_batches
        self._model = replica.prepare_model(self, build_model, checkpoints)
        self._optimizer = build_optimizer(list_trainable(self._model), optimization)
        pieces = replica.whole_pieces(self._model)
        self._average, self._budget = WeightAverage(pieces, optimization), RankBudget(self._model)
        state = replica.restore(
            self,
            build_model,
            self._model,
            self._optimizer,
            pieces if self.rank == 0 else {},
            self._average,
            self._budget,
            checkpoints=checkpoints,
        )
        group.broadcast_weights(self._collectives, self._model)
        self._broadcast_optimizer(list(pieces.values()))
        broadcast_tensors(self._collectives, [*self._average.tensors(), *self._budget.tensors()])
        self._average.begin(state)
        self._budget.begin(state)
        self._gradients = GradientBuckets(
            self._model, lambda bucket, name: self._collectives.sum(bucket.flat, name=name), with_flags=True
        )
        return state

    def _broadcast_optimizer(self, parameters: list[nn.Parameter]) -> None:
        """Rank 0's optimizer state on every rank. A parameter that never got a gradient has none."""
        has_state = torch.tensor([float(parameter in self._optimizer.state) for parameter in parameters])
        broadcast_tensors(self._collectives, [("has_optimizer_state", has_state)])
        named: list[tuple[str, Tensor]] = []
        for number, parameter in enumerate(parameters):
            if has_state[number]:
                state = self._optimizer.state.get(parameter) or new_state(self._optimizer, parameter)
                self._optimizer.state[parameter] = state
                named += [(f"optimizer.{number}.{field}", state[field]) for field in sorted(state)]
        broadcast_tensors(self._collectives, named)

    def forward_backward(self, batches: Iterable[Batch], task: Task, *, num_targets: float) -> Tensor:
        self._average.show(mean=False)
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
        for bucket in self._gradients.buckets:
            for slot, num_ranks in zip(bucket.slots, bucket.flags.tolist(), strict=True):
                if not num_ranks:  # as in one process: no gradient anywhere, no update and no decay
                    slot.parameter.grad = None
        return replica.update_weights(
            self._optimizer, self._average, self._budget, max_norm=max_norm, loss_scale=loss_scale
        )

    def forward(self, batch: Batch) -> Tensor:
        self._average.show(mean=True)
        return replica.run_forward(self._model, batch)

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        return group.sum_over(self._collectives, value, name)

    def replicated(self) -> Iterable[tuple[str, Tensor]]:
        yield from replica.list_replicated(self._model, self._optimizer)
        yield from self._average.tensors()
        yield from self._budget.tensors()

    def agree(self, value: float = 0.0) -> float:
        return group.agree_on(self._collectives, value)

    def save(self, checkpoints: PartWriter, state: TrainState) -> None:
        self._average.show(mean=True)
        part = None
        if self.rank == 0:
            states = replica.optimizer_states(self._optimizer, replica.whole_pieces(self._model))
            part = whole_part(self._model, self._budget.add_to(self._average.add_to(states)))
        checkpoints.write(part, state)

    def load_weights(self, checkpoints: Folder, step: int) -> None:
        self._average.show(mean=True)
        group.load_and_broadcast(self._collectives, self._model, checkpoints, step)

    def export(self) -> nn.Module | None:
        self._average.show(mean=True)
        return self._model.eval() if self.rank == 0 else None
