"""One process: the reference that every other strategy must equal."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.finetune.average import WeightAverage
from pipelines.finetune.checkpoint.format import TrainState, read_record
from pipelines.finetune.checkpoint.part import whole_part
from pipelines.finetune.checkpoint.reading import load_weights
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import build_optimizer, list_trainable, set_learning_rate
from pipelines.finetune.parallel import replica
from pipelines.finetune.parallel.strategy import BuildModel, PartWriter
from pipelines.finetune.parallel.whole_batch import keep_rows
from pipelines.finetune.rank_budget import RankBudget
from pipelines.finetune.tasks.task import Batch, Task
from pipelines.storage import Folder


class SingleProcess:
    """See strategy.Strategy for what each member does."""

    is_common, traffic = True, None

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world_size, self.device = 0, 1, device
        self.data_rank, self.num_replicas = 0, 1
        self._model: nn.Module
        self._optimizer: Optimizer
        self._average: WeightAverage
        self._budget: RankBudget

    def build(
        self,
        build_model: BuildModel,
        optimization: Optimization,
        *,
        num_micro_batches: int,
        checkpoints: Folder,
    ) -> TrainState:
        self._model = replica.prepare_model(self, build_model, checkpoints)
        self._optimizer = build_optimizer(list_trainable(self._model), optimization)
        pieces = replica.whole_pieces(self._model)
        self._average, self._budget = WeightAverage(pieces, optimization), RankBudget(self._model)
        state = replica.restore(
            self,
            build_model,
            self._model,
            self._optimizer,
            pieces,
            self._average,
            self._budget,
            checkpoints=checkpoints,
        )
        self._average.begin(state)
        self._budget.begin(state)
        return state

    def forward_backward(self, batches: Iterable[Batch], task: Task, *, num_targets: float) -> Tensor:
        self._average.show(mean=False)
        self._optimizer.zero_grad()
        return replica.accumulate(self._model, batches, task, num_targets=num_targets, gather=keep_rows)

    def step(self, *, max_norm: float, learning_rate: float, loss_scale: float = 1.0) -> float:
        set_learning_rate(self._optimizer, learning_rate)
        return replica.update_weights(
            self._optimizer, self._average, self._budget, max_norm=max_norm, loss_scale=loss_scale
        )

    def forward(self, batch: Batch) -> Tensor:
        self._average.show(mean=True)
        return replica.run_forward(self._model, batch)

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        return value.detach().cpu()

    def replicated(self) -> Iterable[tuple[str, Tensor]]:
        return ()  # there is one replica

    def agree(self, value: float = 0.0) -> float:
        return value

    def save(self, checkpoints: PartWriter, state: TrainState) -> None:
        self._average.show(mean=True)
        states = replica.optimizer_states(self._optimizer, replica.whole_pieces(self._model))
        states = self._budget.add_to(self._average.add_to(states))
        checkpoints.write(whole_part(self._model, states), state)

    def load_weights(self, checkpoints: Folder, step: int) -> None:
        self._average.show(mean=True)
        load_weights(checkpoints, read_record(checkpoints, step), self._model)

    def export(self) -> nn.Module | None:
        self._average.show(mean=True)
        return self._model.eval()
