"""One process: the reference that every other strategy must equal."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.finetune.average import WeightAverage
from pipelines.finetune.checkpoint.format import TrainState, load_model_tensors, read_record
from pipelines.finetune.checkpoint.weights import read_weights
from pipelines.finetune.checkpoint.whole import save_whole
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import build_optimizer, list_trainable, set_learning_rate
from pipelines.finetune.parallel import replica
from pipelines.finetune.parallel.strategy import BuildModel
from pipelines.finetune.parallel.whole_batch import keep_rows
from pipelines.finetune.tasks.task import Batch, Task
from pipelines.storage import Folder


class SingleProcess:
    """See strategy.Strategy for what each member does."""

    traffic = None

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world_size, self.device = 0, 1, device
        self.data_rank, self.num_replicas = 0, 1
        self._model: nn.Module
        self._optimizer: Optimizer
        self._average: WeightAverage

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
        self._average = WeightAverage(pieces, optimization)
        state = replica.restore(
            self, build_model, self._model, self._optimizer, pieces, self._average, checkpoints=checkpoints
        )
        self._average.begin(state)
        return state

    def forward_backward(self, batches: Iterable[Batch], task: Task, *, num_targets: float) -> Tensor:
        self._average.show(mean=False)
        self._optimizer.zero_grad()
        return replica.accumulate(self._model, batches, task, num_targets=num_targets, gather=keep_rows)

    def step(self, *, max_norm: float, learning_rate: float, loss_scale: float = 1.0) -> float:
        set_learning_rate(self._optimizer, learning_rate)
        norm = replica.clip_gradients(self._optimizer, max_norm, loss_scale)
        if math.isfinite(norm):
            self._optimizer.step()
            self._average.update()
        return norm

    def forward(self, batch: Batch) -> Tensor:
        self._average.show(mean=True)
        return replica.run_forward(self._model, batch)

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        return value.detach().cpu()

    def mean_loss(self, share: Tensor) -> float:
        return float(self.sum(share, name="loss"))

    def agree(self, value: float = 0.0) -> float:
        return value

    def save(self, checkpoints: Folder, state: TrainState) -> None:
        self._average.show(mean=True)
        states = replica.optimizer_states(self._optimizer, replica.whole_pieces(self._model))
        save_whole(checkpoints, self._model, self._average.add_to(states), state)

    def load_weights(self, checkpoints: Folder, step: int) -> None:
        self._average.show(mean=True)
        weights = read_weights(checkpoints, read_record(checkpoints, step), replica.shapes_of(self._model))
        load_model_tensors(self._model, weights, checkpoints.path)

    def export(self) -> nn.Module | None:
        self._average.show(mean=True)
        return self._model.eval()
