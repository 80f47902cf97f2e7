"""How the weights are updated, and how the learning rate changes over the steps. Plain values, no torch."""

import math
import re
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

OptimizerName = Literal["adamw", "adafactor", "muon"]
ScheduleName = Literal["cosine", "linear", "constant", "wsd"]

ADDED = ("optimizer", "schedule", "decay_fraction", "ema_decay")
"""Fields that earlier versions did not have: left out of the identity while they have their default, so that
trainings of those versions keep their fingerprint and can be continued."""


MUON_SINCE = (2, 9)
"""Version of torch."""


def describe_no_muon(installed: str) -> str:
    """Why muon is refused with this version of torch."""
    return (
        f"finetune.optimization.optimizer is muon, which torch {installed} does not have; install torch 2.9 "
        "or later, or set it to adamw"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """An optimizer and its learning rate over time."""

    optimizer: OptimizerName = "adamw"
    """AdamW (Loshchilov and Hutter 2019), Adafactor, or Muon for matrices with AdamW for the rest."""
    learning_rate: float = 3e-4
    """Highest learning rate, reached at the end of warm-up."""
    head_learning_rate_factor: float = 1.0
    """Times learning_rate for the classification head."""
    schedule: ScheduleName = "cosine"
    """How the rate falls after warm-up, see `learning_rate`."""
    warmup_fraction: float = 0.1
    """Share of all steps in which the rate rises from 0."""
    decay_fraction: float = 0.2
    """Share of all steps, the last ones, in which the rate falls under wsd."""
    final_learning_rate_fraction: float = 0.0
    """Share of learning_rate left at the end; not for constant."""
    weight_decay: float = 0.01
    """Not applied to biases and normalisation."""
    max_gradient_norm: float = 1.0
    """A longer gradient is clipped to this L2 norm."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay per step of AdamW's running means of gradients and of their squares."""
    ema_decay: float | None = None
    """Decay per step of the running mean of the weights, which is evaluated and exported; None = no mean."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "head_learning_rate_factor", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}")
        for name in ("warmup_fraction", "decay_fraction", "final_learning_rate_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1) or null, got {self.ema_decay}")
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                "warmup_fraction and decay_fraction must be at most 1 together, got "
                f"{self.warmup_fraction} and {self.decay_fraction}"
            )
        if self.schedule == "constant" and self.final_learning_rate_fraction:
            raise ValueError(
                "final_learning_rate_fraction has no effect on schedule constant, got "
                f"{self.final_learning_rate_fraction}; set it to 0, or take wsd, linear or cosine"
            )

    def require_shardable(self, strategy: str) -> None:
        """Raise ValueError if the optimizer can't update a piece of a parameter as it updates the whole,
        which `strategy` asks of it."""
        if self.optimizer != "adamw":
            raise ValueError(
                f"finetune.optimization.optimizer {self.optimizer} updates whole matrices, and strategy "
                f"{strategy} gives each rank pieces of them; set finetune.strategy=data_parallel or "
                "optimizer adamw"
            )

    def require_installed(self) -> None:
        """Raise ValueError if the installed torch lacks the optimizer. Without torch nothing is known."""
        if self.optimizer != "muon":
            return
        try:
            installed = version("torch")
        except PackageNotFoundError:
            return
        if tuple(map(int, re.findall(r"\d+", installed)[:2])) < MUON_SINCE:
            raise ValueError(describe_no_muon(installed))

    def identity(self) -> dict[str, Any]:
        """What the weights depend on; what a training of an earlier version could not set only if it is
        set."""
        defaults = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ADDED or value != defaults[name]
        }


def learning_rate(step: int, total_steps: int, optimization: Optimization) -> float:
    """Rate of `step` (from 0): a linear warm-up to `optimization.learning_rate`, then by schedule

    - cosine: half a cosine down to the final fraction, which the step after the last one would reach;
    - linear: a straight line to the same point;
    - constant: no change;
    - wsd (warm-up, stable, decay; Hu et al. 2024, arXiv 2404.06395, with a straight line at the end): no
      change until the last `decay_fraction` of the steps, then a straight line to the same point.
    """
    warmup = max(1, round(optimization.warmup_fraction * total_steps))
    if step < warmup:
        return optimization.learning_rate * (step + 1) / warmup

    start = warmup
    if optimization.schedule == "wsd":
        start = max(warmup, total_steps - round(optimization.decay_fraction * total_steps))
    progress = max(0.0, (step - start) / max(1, total_steps - start))
    floor = optimization.final_learning_rate_fraction
    match optimization.schedule:
        case "cosine":
            left = 0.5 * (1 + math.cos(math.pi * progress))
        case "linear" | "wsd":
            left = 1 - progress
        case "constant":
            left = 1.0
    return optimization.learning_rate * (floor + (1 - floor) * left)
