"""AdamW (Loshchilov and Hutter 2019) with warm-up and cosine decay; one rate for the body, a larger one for a new head."""

import math
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW, Optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """What moves the weights."""

    learning_rate: float = 3e-4
    """Highest learning rate, reached at the end of warm-up."""
    head_learning_rate_factor: float = 1.0
    """Times learning_rate for the classification head."""
    warmup_fraction: float = 0.1
    """Share of all steps in which the rate rises from 0."""
    final_learning_rate_fraction: float = 0.0
    """Share of learning_rate left at the last step."""
    weight_decay: float = 0.01
    """Not applied to biases and normalisation."""
    max_gradient_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        for name, lowest in {
            "learning_rate": 0.0,
            "head_learning_rate_factor": 0.0,
            "max_gradient_norm": 0.0,
        }.items():
            if not getattr(self, name) > lowest:
                raise ValueError(f"{name} must be greater than {lowest:g}, got {getattr(self, name)}")
        for name in ("warmup_fraction", "final_learning_rate_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")


def build_optimizer(model: nn.Module, optimization: Optimization) -> Optimizer:
    """AdamW over four groups: head or body, decayed (matrices) or not (vectors)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("head."), parameter.ndim >= 2), []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "rate_factor": optimization.head_learning_rate_factor if head else 1.0,
                "weight_decay": optimization.weight_decay if decayed else 0.0,
            }
            for (head, decayed), parameters in sorted(groups.items())
        ],
        lr=optimization.learning_rate,
        betas=optimization.betas,
        fused=True,
    )


def learning_rate(step: int, total_steps: int, optimization: Optimization) -> float:
    """Rate of `step` (from 0): linear warm-up, then half a cosine down to the final fraction."""
    warmup = max(1, round(optimization.warmup_fraction * total_steps))
    if step < warmup:
        return optimization.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    floor = optimization.final_learning_rate_fraction
    return optimization.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
