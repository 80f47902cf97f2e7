"""The few members through which the loop knows about other ranks."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Strategy(Protocol):
    rank: int
    world_size: int
    device: torch.device

    def wrap(self, model: nn.Module, optimizer: Optimizer, *, accumulation: int) -> Optimizer:
        """Equal parameters and optimizer state on every rank; an optimizer whose gradients will be averaged over ranks.

        `accumulation` is the number of backward passes before each step.
        """
        ...

    def step(self, optimizer: Optimizer, *, max_norm: float) -> float:
        """Average the gradients, clip them to `max_norm`, update; the norm before clipping."""
        ...

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        """`value` summed over ranks, on every rank. Collective: all ranks call it with the same name and shape."""
        ...
