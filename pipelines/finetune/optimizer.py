"""AdamW over the parameters, or the pieces of parameters, that a rank updates."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipelines.finetune.optimization import Optimization


class Trainable(NamedTuple):
    """A parameter, or a flat piece of one, that the optimizer updates."""

    name: str
    tensor: nn.Parameter
    ndim: int
    """Dimensions of the whole parameter: matrices decay, vectors do not."""


def list_trainable(model: nn.Module) -> Iterator[Trainable]:
    """All parameters that are trained, whole."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield Trainable(name, parameter, parameter.ndim)


def build_optimizer(trainable: Iterable[Trainable], optimization: Optimization) -> Optimizer:
    """AdamW over up to four groups: head or body, decayed (matrices) or not (vectors). No parameters at all
    is allowed.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, tensor, ndim in trainable:
        groups.setdefault((name.startswith("head."), ndim >= 2), []).append(tensor)
    return AdamW(
        [
            {
                "params": tensors,
                "rate_factor": optimization.head_learning_rate_factor if head else 1.0,
                "weight_decay": optimization.weight_decay if decayed else 0.0,
            }
            for (head, decayed), tensors in sorted(groups.items())
        ]
        or [{"params": [], "rate_factor": 1.0}],
        lr=optimization.learning_rate,
        betas=optimization.betas,
        fused=True,
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def new_state(tensor: Tensor) -> dict[str, Tensor]:
    """AdamW's state for `tensor` before its first update: to be overwritten by a checkpoint or another
    rank.
    """
    return {
        "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
        "exp_avg": torch.zeros_like(tensor.detach()),
        "exp_avg_sq": torch.zeros_like(tensor.detach()),
    }
