"""The ranks of AdaLoRA (Zhang et al. 2023, arXiv 2303.10512) in a training: PEFT's RankAllocator, with a
state that checkpoints keep and ranks agree on.

After every step the importance of each element of A, E and B, |weight x gradient|, goes into a running mean,
and its distance from that mean into another one. On a schedule, the directions of all layers are ordered by
the products of the two, and those beyond the budget of the step get E = 0. In the last steps the choice
stays.

The gradient is that of the whole global batch, summed over micro-batches and ranks and clipped, and the
penalty below is added once a step, so nothing depends on their numbers. Every rank computes the same choice.
Cost: two numbers an element, and one sort of all directions at each allocation.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.finetune.checkpoint.format import Piece, PieceState, TrainState
from pipelines.finetune.models.adapter import NEEDS_WHOLE_GRADIENTS
from pipelines.finetune.models.lora import DEFAULT, find_attached, find_backbone

IMPORTANCE, UNCERTAINTY, KEPT = "importance", "uncertainty", "kept"
"""Names in the state of a piece: the two running means, and of an E which of its directions stay (1 or 0;
all are 1 until the last choice)."""


def plan_ranks(model: nn.Module, total_steps: int) -> None:
    """Say how many steps the training of `model` has; nothing for other adapters."""
    attached = find_attached(model)
    if attached is not None and attached.schedule is not None:
        config: Any = find_backbone(model)[1].peft_config[DEFAULT]
        config.tinit, config.tfinal = attached.schedule.plan(total_steps)
        config.total_step = total_steps


def require_no_budget(model: nn.Module) -> None:
    """Raise ValueError for a model whose ranks are allocated, under a strategy that shards gradients."""
    attached = find_attached(model)
    if attached is not None and attached.schedule is not None:
        raise ValueError(NEEDS_WHOLE_GRADIENTS)


class RankBudget:
    """The allocation of ranks of one model; nothing at all for other adapters."""

    def __init__(self, model: nn.Module) -> None:
        """`begin` is to be called when state was read and sent."""
        attached = find_attached(model)
        self._weights: dict[str, nn.Parameter] = {}
        self._kept: dict[str, Tensor] = {}
        self._step = 0
        if attached is None or attached.schedule is None:
            return
        from peft.tuners.adalora.layer import RankAllocator

        self._model = model
        self._config: Any = find_backbone(model)[1].peft_config[DEFAULT]
        self._allocator = RankAllocator(model, self._config, DEFAULT)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                self._weights[name] = parameter
                for means in (self._allocator.exp_avg_ipt, self._allocator.exp_avg_unc):
                    means[name] = torch.zeros_like(parameter.detach())
                self._allocator.ipt[name] = torch.zeros_like(parameter.detach())
            if "lora_E" in name:
                self._kept[name] = torch.ones_like(parameter.detach())

    def begin(self, state: TrainState) -> None:
        """Training stands at `state`."""
        self._step = state.step
        if not state.step:  # a damaged checkpoint may have filled some
            for name in self._weights:
                for field, held in self._fields(name).items():
                    held.fill_(field == KEPT)

    def add_penalty(self) -> None:
        """Add the gradient of the mean distance of A A' and B' B from the identity (Frobenius), times
        `orthogonality`, to the gradients, which are whole and not clipped yet. The reported loss is without
        it."""
        if not self._weights or not self._config.orth_reg_weight:
            return
        parts = {name: each for name, each in self._weights.items() if "lora_E" not in name}
        distances = []
        for name, each in parts.items():
            products = each @ each.T if "lora_A" in name else each.T @ each
            distances.append(torch.linalg.matrix_norm(products - torch.eye(len(products)).to(products)))
        penalty = self._config.orth_reg_weight * torch.stack(distances).mean()
        for each, gradient in zip(
            parts.values(), torch.autograd.grad(penalty, [*parts.values()]), strict=True
        ):
            each.grad = gradient if each.grad is None else each.grad.add_(gradient)

    @torch.no_grad()
    def update(self, *, is_finite: bool) -> None:
        """After each step: measure, and allocate if it is due. `is_finite`: whether the weights changed."""
        if not self._weights:
            return
        self._step += 1
        if not is_finite:
            return
        for each in self._weights.values():
            if each.grad is None:  # PEFT multiplies by it
                each.grad = torch.zeros_like(each)
        first_final = self._config.total_step - self._config.tfinal
        if self._step < first_final:
            self._allocator.update_and_allocate(self._model, self._step)
            return
        if all(bool(kept.all()) for kept in self._kept.values()):
            _, chosen = self._allocator.update_and_allocate(self._model, first_final, force_mask=True)
            for name, kept in self._kept.items():
                kept.copy_(torch.tensor(chosen[name]).to(kept)[:, None])
        for name, kept in self._kept.items():
            self._weights[name].detach().masked_fill_(kept == 0, 0.0)

    def add_to(self, states: dict[Piece, PieceState]) -> dict[Piece, PieceState]:
        """States of a checkpoint with those of the allocation, flat."""
        return {
            piece: {**state, **{field: each.reshape(-1) for field, each in self._fields(piece.name).items()}}
            for piece, state in states.items()
        }

    def hold_for(self, piece: Piece) -> PieceState:
        """What a checkpoint fills for `add_to`: the allocation itself."""
        return self._fields(piece.name)

    def take_from(self, states: dict[Piece, PieceState]) -> dict[Piece, PieceState]:
        """Take the allocation out of `states`; the states without it."""
        for piece, state in states.items():
            for field, held in self._fields(piece.name).items():
                held.copy_(state[field].view_as(held))
        return {
            piece: {name: value for name, value in state.items() if name not in self._fields(piece.name)}
            for piece, state in states.items()
        }

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """What is held, by name: for ranks that receive it."""
        return (
            (f"ranks.{name}.{field}", each)
            for name in self._weights
            for field, each in self._fields(name).items()
        )

    def _fields(self, name: str) -> PieceState:
        """What is held of a parameter."""
        if name not in self._weights:
            return {}
        allocator = self._allocator
        fields = {IMPORTANCE: allocator.exp_avg_ipt[name], UNCERTAINTY: allocator.exp_avg_unc[name]}
        return {**fields, KEPT: self._kept[name]} if name in self._kept else fields
