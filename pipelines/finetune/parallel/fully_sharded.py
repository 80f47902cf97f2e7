"""Fully sharded (FSDP2, torch.distributed.fsdp.fully_shard; ZeRO stage 3, Rajbhandari et al. 2020): 1/N of
the weights, gradients and optimizer state on each of N ranks.

Every layer, and what lies outside of the layers, is a unit. Before a unit computes, the ranks gather its
weights (all-gather); afterwards each keeps its rows alone. After the unit's backward pass each rank gets its
rows of the summed gradients (reduce-scatter). At a time a rank holds whole: the unit outside of the layers,
the layer that computes, and the one that is gathered ahead.

Each rank owns rows of every parameter: a contiguous piece of its flat form, which torch's AdamW updates as a
plain tensor. So optimizer, running mean and checkpoints are those of a sharded optimizer. Gradients are
exchanged after every micro-batch: held whole until the last one, they would take as much memory on four ranks
as all that is sharded. In 16 bits, weights travel and compute in that type; pieces, sums and
gradients stay float32.

Each rank builds the whole model in host memory and cuts it unit by unit; from then on it holds pieces alone.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pipelines.finetune.average import WeightAverage
from pipelines.finetune.checkpoint.format import Piece, Record, TrainState, find_base, read_record
from pipelines.finetune.checkpoint.part import Part
from pipelines.finetune.checkpoint.reading import load_weight_pieces
from pipelines.finetune.lack_of_memory import explain_batch
from pipelines.finetune.models.freeze import ROUTED
from pipelines.finetune.models.layers import list_layers
from pipelines.finetune.models.lora import list_frozen, read_state
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import Trainable, build_optimizer, set_learning_rate
from pipelines.finetune.parallel import group, replica
from pipelines.finetune.parallel.collectives.torch import TorchCollectives
from pipelines.finetune.parallel.strategy import BuildModel, PartWriter
from pipelines.finetune.precision import TYPES, read_precision
from pipelines.finetune.rank_budget import require_no_budget
from pipelines.finetune.tasks.task import Batch, Task
from pipelines.storage import Folder


class Shard(NamedTuple):
    """The rows of a parameter that this rank owns, or a whole buffer."""

    piece: Piece
    tensor: nn.Parameter
    """(num_elements,) view of the rows: writing into it changes the model."""
    source: Tensor
    """The sharded parameter, whose gradient has the rows too; or the buffer."""


class FullySharded:
    """See strategy.Strategy for what each member does."""

    is_common, traffic = True, None

    def __init__(self, device: torch.device) -> None:
        self._collectives, self.device = TorchCollectives(device), device
        self.rank, self.world_size = self._collectives.rank, self._collectives.world_size
        self.data_rank, self.num_replicas = self.rank, self.world_size
        self._build_model: BuildModel
        self._model: nn.Module
        self._optimizer: Optimizer
        self._average: WeightAverage
        self._shards: list[Shard]
        self._trained: list[Shard]

    def build(
        self,
        build_model: BuildModel,
        optimization: Optimization,
        *,
        num_micro_batches: int,
        checkpoints: Folder,
    ) -> TrainState:
        optimization.require_shardable("fully_sharded")
        self._build_model = build_model
        self._model = replica.prepare_model(self, build_model, checkpoints, device=torch.device("cpu"))
        require_no_budget(self._model)
        group.broadcast_weights(self._collectives, self._model)
        self._cut()
        self._trained = [each for each in self._list_shards() if each.source.requires_grad]
        saved = read_state(self._model).keys()
        self._shards = [each for each in self._list_shards() if each.piece.name in saved]
        self._optimizer = build_optimizer(
            [Trainable(each.piece.name, each.tensor, each.source.ndim) for each in self._trained],
            optimization,
        )
        owned = {each.piece: each.tensor for each in self._trained}
        self._average = WeightAverage(owned, optimization)

        def read(record: Record) -> None:
            self._load_weights(checkpoints, record)
            replica.read_states(checkpoints, record, self._optimizer, owned, self._average)

        state = replica.restore_newest(self, self._model, checkpoints, read, self._start_over)
        self._average.begin(state)
        return state

    def _cut(self) -> None:
        """Shard the model, unit by unit. Raises ValueError if it has no layers."""
        layers, any_model = list_layers(self._model), cast(Any, self._model)
        if not layers:
            raise ValueError(
                f"finetune.strategy is fully_sharded, but model type {any_model.config.model_type} has no "
                "layers that could be gathered one after the other; set it to sharded_optimizer or "
                "data_parallel"
            )
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        dtype = TYPES.get(read_precision(self._model))
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=dtype and torch.float32, cast_forward_inputs=False
        )
        is_routed = any(
            ROUTED in name and each.requires_grad for name, each in self._model.named_parameters()
        )
        for each in [*layers, self._model]:
            unit: FSDPModule = fully_shard(each, mesh=mesh, mp_policy=policy)
            # Sums, not means: losses are divided by the targets of the global batch.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
            if is_routed:
                # Ranks may differ in which experts get a gradient, and must exchange the same parameters.
                unit.set_reduce_scatter_unused_params(True)

    def _list_shards(self) -> Iterator[Shard]:
        """What this rank owns of every parameter, each once, and every buffer."""
        for name, parameter in self._model.named_parameters():
            assert isinstance(parameter, DTensor), f"{name} lies outside of all units"
            local = parameter.to_local().detach()
            num_rows = -(-parameter.shape[0] // self.world_size)  # of each rank but the last ones
            start = min(self.rank * num_rows, parameter.shape[0]) * (parameter.numel() // parameter.shape[0])
            if local.numel():
                tensor = nn.Parameter(local.view(-1), requires_grad=parameter.requires_grad)
                yield Shard(Piece(name, start, start + local.numel()), tensor, parameter)
        for name, buffer in self._model.named_buffers():
            if buffer.numel():
                tensor = nn.Parameter(buffer.detach().view(-1), requires_grad=False)
                yield Shard(Piece(name, 0, buffer.numel()), tensor, buffer)

    def _load_weights(self, checkpoints: Folder, record: Record) -> None:
        load_weight_pieces(checkpoints, record, {each.piece: each.tensor for each in self._shards})

    def _start_over(self) -> None:
        self._optimizer.state.clear()
        whole = self._build_model(self.rank == 0)
        group.broadcast_weights(self._collectives, whole)
        values = read_state(whole)
        for each in self._shards:
            name, start, stop = each.piece
            each.tensor.detach().copy_(values[name].reshape(-1)[start:stop])

    def forward_backward(self, batches: Iterable[Batch], task: Task, *, num_targets: float) -> Tensor:
        self._average.show(mean=False)
        return replica.accumulate(
            self._model,
            batches,
            task,
            num_targets=num_targets,
            gather=partial(group.gather_rows, self._collectives),
        )

    def step(self, *, max_norm: float, learning_rate: float, loss_scale: float = 1.0) -> float:
        set_learning_rate(self._optimizer, learning_rate)
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for each in self._trained:
            gradient = cast(DTensor | None, each.source.grad)
            # None is None on all ranks: as in one process, no update and no decay.
            each.tensor.grad = None if gradient is None else gradient.to_local().view(-1)
            if each.tensor.grad is not None:
                squares += (each.tensor.grad.double() / loss_scale).square().sum()
        norm = float(self.sum(squares, name="norm")) ** 0.5
        if math.isfinite(norm):
            scale = min(1.0, max_norm / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_
            for each in self._trained:
                if each.tensor.grad is not None:
                    each.tensor.grad.mul_(scale / loss_scale)
            self._optimizer.step()
            self._average.update()
        for each in self._trained:
            each.tensor.grad = each.source.grad = None
        return norm

    def forward(self, batch: Batch) -> Tensor:
        self._average.show(mean=True)
        self._model.eval()
        # Not inference mode: what it allocates for gathered weights could not be trained on afterwards.
        with torch.no_grad(), explain_batch(self._model, batch):
            outputs: Tensor = self._model(**batch.inputs)
        cast(FSDPModule, self._model).reshard()  # the outer unit waits for a backward pass that does not come
        return outputs

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        return group.sum_over(self._collectives, value, name)

    def replicated(self) -> Iterable[tuple[str, Tensor]]:
        return ()  # no rank holds what another one has

    def agree(self, value: float = 0.0) -> float:
        return group.agree_on(self._collectives, value)

    def save(self, checkpoints: PartWriter, state: TrainState) -> None:
        self._average.show(mean=True)
        states = replica.optimizer_states(
            self._optimizer, {each.piece: each.tensor for each in self._trained}
        )
        weights = {
            each.piece: each.tensor
            for each in self._shards
            if isinstance(each.source, DTensor) or self.rank == 0  # buffers are equal on all ranks
        }
        part = Part(
            weight_pieces=weights,
            shapes={each.piece.name: list(each.source.shape) for each in self._shards},
            states=self._average.add_to(states),
            base=find_base(self._model),
            number=self.rank,
            num_parts=self.world_size,
        )
        checkpoints.write(part, state)

    def load_weights(self, checkpoints: Folder, step: int) -> None:
        self._average.show(mean=True)
        self._load_weights(checkpoints, read_record(checkpoints, step))

    def export(self) -> nn.Module | None:
        """On the CPU. One parameter after the other is gathered, and kept on rank 0 alone."""
        self._average.show(mean=True)
        model = self._build_model(False) if self.rank == 0 else None
        values = {} if model is None else model.state_dict()
        frozen = list_frozen(self._model)  # `build_model` reads them
        for name, tensor in [*self._model.named_parameters(), *self._model.named_buffers()]:
            if name not in frozen:
                whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                if name in values:
                    values[name].detach().copy_(whole.detach())
        return None if model is None else model.eval()

    def num_held_bytes(self) -> int:
        """Bytes of weights and of optimizer state that this rank holds between steps."""
        state = (tensor for state in self._optimizer.state.values() for tensor in state.values())
        weights = (each.tensor for each in self._list_shards())
        return sum(tensor.nbytes for tensor in (*weights, *state))
