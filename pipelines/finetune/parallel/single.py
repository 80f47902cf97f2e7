"""One process: the reference that every other strategy must equal."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class SingleProcess:
    def __init__(self, device: torch.device) -> None:
        self.rank, self.world_size, self.device = 0, 1, device

    def wrap(self, model: nn.Module, optimizer: Optimizer, *, accumulation: int) -> Optimizer:
        return optimizer

    def step(self, optimizer: Optimizer, *, max_norm: float) -> float:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
        optimizer.step()
        return norm

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        return value
