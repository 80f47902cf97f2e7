"""The running mean of the weights (EMA), which evaluations and exports use instead of the weights themselves.

After n steps the mean weighs the weights after step i by decay^(n - i), and these factors are divided by
their sum, as Adam corrects its means: the weights before the first step, often random, are no part of it.
Whole parameters or the pieces that a rank owns: each element has its mean, in the type of the weight
(float32), so the cost is one more copy of what the rank updates.

Model and mean change places: while the mean is shown, the weights are held here. A checkpoint that is
written then has the mean as its model, and the weights to go on from among the state of the pieces.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pipelines.finetune.checkpoint.format import Piece, PieceState, TrainState
from pipelines.finetune.optimization import Optimization

FIELD = "weight"
"""Name of the weights in the state of a piece."""


class WeightAverage:
    """The mean of the weights of one rank; nothing at all without `ema_decay`."""

    def __init__(self, weights: Mapping[Piece, nn.Parameter], optimization: Optimization) -> None:
        """`begin` is to be called when the weights have their values."""
        self._decay = optimization.ema_decay
        self._weights = {} if self._decay is None else dict(weights)
        self._held = {piece: torch.zeros_like(each.detach()) for piece, each in self._weights.items()}
        self._num_steps, self._is_shown = 0, False

    def begin(self, state: TrainState) -> None:
        """Training stands at `state`. At step 0 the mean is the weights; later the model is the mean, and
        what is held was read from the checkpoint. Steps that were skipped have added nothing.
        """
        self._num_steps, self._is_shown = state.step - state.num_skipped, state.step > 0
        if not self._is_shown:
            for piece, held in self._held.items():
                held.copy_(self._weights[piece].detach())

    def update(self) -> None:
        """Add the weights after a step."""
        if self._decay is not None:
            assert not self._is_shown, "training shows the weights"
            self._num_steps += 1
            share = (1 - self._decay) / (1 - self._decay**self._num_steps)
            for piece, mean in self._held.items():
                mean.lerp_(self._weights[piece].detach(), share)

    def show(self, mean: bool) -> bool:
        """Put the mean or the weights into the model; whether that changed it."""
        if self._decay is None or mean == self._is_shown:
            return False
        for piece, held in self._held.items():
            shown = self._weights[piece].detach()
            kept = shown.clone()
            shown.copy_(held)
            held.copy_(kept)
        self._is_shown = mean
        return True

    def add_to(self, states: dict[Piece, PieceState]) -> dict[Piece, PieceState]:
        """States of a checkpoint with the held weights, flat."""
        assert self._decay is None or self._is_shown, "the model of a checkpoint is the mean"
        if self._decay is None:
            return states
        return {piece: {**state, FIELD: self._held[piece].reshape(-1)} for piece, state in states.items()}

    def hold_for(self, piece: Piece) -> PieceState:
        """What a checkpoint fills for `add_to`: the held weights themselves."""
        return {} if self._decay is None else {FIELD: self._held[piece]}

    def take_from(self, states: dict[Piece, PieceState]) -> dict[Piece, PieceState]:
        """Hold the weights that `states` have; the states without them. Raises ValueError if they have
        none.
        """
        if self._decay is None:
            return states
        for piece, state in states.items():
            if FIELD not in state:
                raise ValueError(
                    f"the checkpoint has no average of {piece.name}: it is of a training without "
                    "finetune.optimization.ema_decay; train in a new folder"
                )
            self._held[piece].copy_(state[FIELD].view_as(self._held[piece]))
        return {
            piece: {name: value for name, value in state.items() if name != FIELD}
            for piece, state in states.items()
        }

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """What is held, by name: for ranks that receive it."""
        return ((f"held.{piece.name}", held) for piece, held in self._held.items())
