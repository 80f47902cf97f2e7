"""Local SGD (Stich 2019, arXiv 1805.09767) and DiLoCo (Douillard et al. 2023, arXiv 2311.08105): ranks train
alone between synchronisations, so that 1/H of the traffic of data parallel is left for H inner steps.

Every rank holds whole weights and an optimizer of its own, which no rank ever sends. A step is an inner step:
each rank clips and follows the gradient of its own share of the global batch. After every H-th step of the
training the ranks sum what they have changed since the last synchronisation. The mean change is the gradient
of one step of SGD, with Nesterov momentum if that is set, on the common weights, from which all go on.

Evaluations, checkpoints and the model use the mean of the weights of all ranks. Where they fall between two
synchronisations, they cost one exchange and change nothing: training goes on from each rank's own weights. So
the weights do not depend on how often checkpoints are written, and the last step always ends with the mean.

A checkpoint has the mean as its model, and for each rank the state of its optimizer and its own weights. The
same number of ranks continues bit by bit. Another number goes on from the mean of weights and of optimizer
states, as if the ranks had met there. Buffers that are no parameters stay those of rank 0.

Memory beside that of data parallel: the common weights, with momentum as much again, and during evaluations
the rank's own weights.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.finetune.checkpoint.format import Piece, PieceState, Record, TrainState, find_base
from pipelines.finetune.checkpoint.part import Part, model_tensors
from pipelines.finetune.checkpoint.private import ANCHOR, MOMENTUM, OWN, read_private
from pipelines.finetune.checkpoint.reading import load_weights
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import build_optimizer, list_trainable, new_state, set_learning_rate
from pipelines.finetune.parallel import group, replica
from pipelines.finetune.parallel.buckets import deal_parameters
from pipelines.finetune.parallel.collectives.interface import Collectives, broadcast_tensors
from pipelines.finetune.parallel.rules import LocalSgdRules
from pipelines.finetune.parallel.strategy import BuildModel, PartWriter, Traffic
from pipelines.finetune.parallel.whole_batch import keep_rows
from pipelines.finetune.rank_budget import require_no_budget
from pipelines.finetune.tasks.task import Batch, Task
from pipelines.storage import Folder

Tensors = dict[str, Tensor]
"""By name of the parameter, in its shape."""


class LocalSgd:
    """See strategy.Strategy for what each member does."""

    def __init__(self, collectives: Collectives, device: torch.device, rules: LocalSgdRules) -> None:
        self._collectives, self.device, self._rules = collectives, device, rules
        self.rank, self.world_size = collectives.rank, collectives.world_size
        self.data_rank, self.num_replicas = self.rank, self.world_size
        self._model: nn.Module
        self._optimizer: Optimizer
        self._trained: dict[str, nn.Parameter]
        self._anchor: Tensors
        """The common weights after the last synchronisation."""
        self._momentum: Tensors = {}
        self._own: Tensors | None = None
        """This rank's weights while the model shows the mean of all; None = the model has them."""
        self._num_steps = 0
        self._sent_bytes = self._synchronous_bytes = 0

    def build(
        self,
        build_model: BuildModel,
        optimization: Optimization,
        *,
        num_micro_batches: int,
        checkpoints: Folder,
    ) -> TrainState:
        self._model = replica.prepare_model(self, build_model, checkpoints)
        require_no_budget(self._model)
        self._trained = {name: each for name, each in self._model.named_parameters() if each.requires_grad}
        self._optimizer = build_optimizer(list_trainable(self._model), optimization)
        pieces, found = replica.whole_pieces(self._model), dict[Piece, PieceState]()

        def read(record: Record) -> None:
            if self.rank == 0:
                load_weights(checkpoints, record, self._model)
            found.update(read_private(checkpoints, record, pieces, self.rank, self.world_size))

        def start_over() -> None:
            found.clear()
            replica.load_start(self, build_model, self._model)

        state = replica.restore_newest(self, self._model, checkpoints, read, start_over)
        group.broadcast_weights(self._collectives, self._model)
        self._continue(state, found, pieces)
        return state

    def _continue(
        self, state: TrainState, found: dict[Piece, PieceState], pieces: dict[Piece, nn.Parameter]
    ) -> None:
        """Take over what this rank has read; the model has the mean of the weights."""
        self._num_steps = state.step
        self._sent_bytes, self._synchronous_bytes = state.sent_bytes, state.synchronous_bytes
        for piece, fields in found.items():
            moments = {field: each for field, each in fields.items() if field not in (ANCHOR, MOMENTUM, OWN)}
            if moments:
                made = self._optimizer.state[pieces[piece]] = new_state(self._optimizer, pieces[piece])
                for field, value in moments.items():
                    made[field].copy_(value.view_as(made[field]))
        self._anchor = self._take(
            found, ANCHOR, {name: each.detach() for name, each in self._trained.items()}
        )
        named = [(f"{ANCHOR}.{name}", each) for name, each in self._anchor.items()]
        if self._rules.outer_momentum:
            zeros = {name: torch.zeros_like(each) for name, each in self._anchor.items()}
            self._momentum = self._take(found, MOMENTUM, zeros)
            named += [(f"{MOMENTUM}.{name}", each) for name, each in self._momentum.items()]
        broadcast_tensors(self._collectives, named)  # they are in the file of rank 0 alone
        if any(OWN in each for each in found.values()):
            self._own = self._take(found, OWN, {name: each.detach() for name, each in self._trained.items()})

    def _take(self, found: dict[Piece, PieceState], field: str, default: Tensors) -> Tensors:
        """Copies of `field` of what was read, else of `default`."""
        read = {piece.name: state[field] for piece, state in found.items() if field in state}
        return {
            name: read[name].to(value).view_as(value).clone() if name in read else value.clone()
            for name, value in default.items()
        }

    def forward_backward(self, batches: Iterable[Batch], task: Task, *, num_targets: float) -> Tensor:
        self._show(mean=False)
        self._optimizer.zero_grad()
        # The mean over the rank's own rows, with its part of the targets as on average.
        own_targets = num_targets / self.num_replicas
        share = replica.accumulate(self._model, batches, task, num_targets=own_targets, gather=keep_rows)
        return share / self.num_replicas

    def step(self, *, max_norm: float, learning_rate: float, loss_scale: float = 1.0) -> float:
        """The norm is that of this rank's gradient."""
        set_learning_rate(self._optimizer, learning_rate)
        assert loss_scale == 1.0, "float16 is refused"
        norm = float(nn.utils.clip_grad_norm_(self._trained.values(), max_norm))
        if math.isfinite(norm):
            self._optimizer.step()
            self._num_steps += 1
            num_bytes = sum(each.nbytes for each in self._trained.values())
            self._synchronous_bytes += self._count_sent(num_bytes)
            if self.is_common:
                self._synchronise()
        return norm

    @property
    def is_common(self) -> bool:
        return self._num_steps % self._rules.inner_steps == 0

    @torch.no_grad()
    def _synchronise(self) -> None:
        """One outer step, which gives every rank the same weights."""
        rate, momentum = self._rules.outer_learning_rate, self._rules.outer_momentum
        for name, mean in self._exchange():
            gradient = self._anchor[name] - mean
            if momentum:  # as torch.optim.SGD with nesterov=True
                velocity = self._momentum[name].mul_(momentum).add_(gradient)
                gradient = gradient.add_(velocity, alpha=momentum)
            self._anchor[name].sub_(gradient, alpha=rate)
            self._trained[name].copy_(self._anchor[name])

    def _exchange(self) -> Iterable[tuple[str, Tensor]]:
        """Name and mean over the ranks of each trained parameter; one buffer travels at a time."""
        for number, named in enumerate(deal_parameters(self._trained.items())):
            # Changes, which are small: their sum loses less to rounding than that of weights.
            flat = torch.cat([(each.detach() - self._anchor[name]).reshape(-1) for name, each in named])
            self._collectives.sum(flat, name=f"changes.{number}").wait()
            self._sent_bytes += self._count_sent(flat.nbytes)
            for (name, each), change in zip(
                named, flat.split([each.numel() for _, each in named]), strict=True
            ):
                yield name, self._anchor[name] + change.view_as(each) / self.num_replicas

    def _count_sent(self, num_bytes: int) -> int:
        """Bytes that a rank sends for a sum of `num_bytes` over a ring."""
        return round(2 * (self.world_size - 1) / self.world_size * num_bytes)

    @torch.no_grad()
    def _show(self, *, mean: bool) -> None:
        """Put the mean of all ranks' weights into the model, or this rank's own ones."""
        if mean and self._own is None and not self.is_common:
            own = {name: each.detach().clone() for name, each in self._trained.items()}
            for name, value in self._exchange():
                self._trained[name].copy_(value)
            self._own = own
        elif not mean and self._own is not None:
            for name, value in self._own.items():
                self._trained[name].copy_(value)
            self._own = None

    def forward(self, batch: Batch) -> Tensor:
        self._show(mean=True)
        return replica.run_forward(self._model, batch)

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        return group.sum_over(self._collectives, value, name)

    def replicated(self) -> Iterable[tuple[str, Tensor]]:
        """After a synchronisation: rules.py lets nothing else be compared."""
        yield from self._trained.items()
        yield from ((f"outer momentum of {name}", each) for name, each in self._momentum.items())

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._sent_bytes, self._synchronous_bytes)

    def agree(self, value: float = 0.0) -> float:
        return group.agree_on(self._collectives, value)

    def save(self, checkpoints: PartWriter, state: TrainState) -> None:
        self._show(mean=True)
        states = replica.optimizer_states(self._optimizer, replica.whole_pieces(self._model))
        parts = {MOMENTUM: self._momentum} if self.rank == 0 else {}
        if self._own is not None:  # else the model has them
            parts |= {OWN: self._own} | ({ANCHOR: self._anchor} if self.rank == 0 else {})
        for piece, fields in states.items():
            fields |= {field: values[piece.name].reshape(-1) for field, values in parts.items() if values}
        part = Part(
            weights=model_tensors(self._model) if self.rank == 0 else None,
            states=states,
            is_private=True,
            base=find_base(self._model),
            number=self.rank,
            num_parts=self.world_size,
        )
        traffic = {"sent_bytes": self._sent_bytes, "synchronous_bytes": self._synchronous_bytes}
        checkpoints.write(part, replace(state, **traffic))

    def load_weights(self, checkpoints: Folder, step: int) -> None:
        """For good: no rank trains on."""
        self._show(mean=True)
        group.load_and_broadcast(self._collectives, self._model, checkpoints, step)

    def export(self) -> nn.Module | None:
        self._show(mean=True)
        return self._model.eval() if self.rank == 0 else None
