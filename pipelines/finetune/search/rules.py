"""What a search tries and how: the section `finetune.search`. Standard library only.

A space names keys of the section `finetune` (optimization.learning_rate, global_batch, ...), each with a list
of values or a range.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipelines.metrics import METRICS

Method = Literal["grid", "random", "halving", "optuna"]
Value = str | int | float | bool | None
Settings = dict[str, Value]
"""Key below `finetune` -> value of one candidate."""

LEARNING_RATE = "optimization.learning_rate"
PLACES = (
    "sequences",
    "tokenizers",
    "folder",
    "mixtures",
    "searches",
    "search",
    "evaluation_split",
    "final_split",
    "max_evaluation_sequences",
    "num_ranks",
    "strategy",
    "collectives",
    "local_sgd",
    "gpus_per_rank",
    "micro_batch",
    "num_threads",
    "activation_checkpointing",
    "max_logit_tokens",
    "max_copies_gb",
    "compile",
    "compare_replicas_every_steps",
    "peak_tflops",
    "timeline",
    "system_metrics",
    "wait_for_slots_seconds",
    "checkpoint_every_steps",
    "checkpoint_in_background",
    "log_every_steps",
    "sequence_losses",
)
"""Keys below `finetune` that say where and how a training runs or is measured: they are no part of a space.
Trainings that differ in them alone are one and the same."""
MAX_FOLDS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Numbers from low to high, both included."""

    low: float
    high: float
    log: bool = False
    """Equal chances for equal factors, as for learning rates."""
    integer: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        if self.log and not self.low > 0:
            raise ValueError(f"low must be above 0 where log is true, got {self.low:g}; set log: false")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError(
                f"low and high must be whole numbers where integer is true, got {self.low:g} and "
                f"{self.high:g}"
            )


Choice = tuple[Value, ...]
Space = dict[str, Range | Choice]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRules:
    """A search over settings of the training."""

    method: Method = "random"
    space: dict[str, Range | Choice | None] = field(default_factory=dict)
    """Empty = the learning rate, from a tenth to ten times the configured one; None takes a key back."""
    num_trials: int = 8
    """Different candidates, or as many as the space has; a grid has as many as its lists say."""
    num_folds: int | None = None
    """Each candidate is trained once for each fold of the train split; None = once, measured on
    evaluation_split."""
    metric: str | None = None
    """None = the metric of the task, which also chooses the best checkpoint."""
    seed: int = 0
    """Of random candidates and of folds."""
    halving_factor: int = 3
    """halving: one of so many candidates goes on, with so many times the epochs."""
    min_epochs_fraction: float = 0.1
    """halving: least share of num_epochs that a candidate of the first round is trained."""
    optuna_batch: int = 4
    """optuna: candidates that are proposed together; results do not depend on the number of slots."""
    max_parallel: int | None = None
    """Trials at once; None = one for each slot of Spark, or one on a local master with a GPU."""

    def __post_init__(self) -> None:
        for name, least in (("num_trials", 1), ("halving_factor", 2), ("optuna_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be at least 0 and below 2^63, got {self.seed}")
        if self.max_parallel is not None and self.max_parallel < 1:
            raise ValueError(f"max_parallel must be at least 1 or null, got {self.max_parallel}")
        if self.num_folds is not None and not 2 <= self.num_folds <= MAX_FOLDS:
            raise ValueError(f"num_folds must be from 2 to {MAX_FOLDS}, or null, got {self.num_folds}")
        if not 0 < self.min_epochs_fraction <= 1:
            raise ValueError(f"min_epochs_fraction must be in (0, 1], got {self.min_epochs_fraction:g}")
        if self.metric is not None and self.metric not in METRICS:
            raise ValueError(f"metric must be null or one of {', '.join(METRICS)}, got {self.metric}")
        for key, values in self.space.items():
            self._require_values(key, values)

    def _require_values(self, key: str, values: Range | Choice | None) -> None:
        if key.partition(".")[0] in PLACES:
            raise ValueError(
                f"space names {key}, which says where and how a training runs or is measured, not what it "
                "learns; take a key such as optimization.learning_rate or global_batch"
            )
        if isinstance(values, tuple) and (not values or count_different(values) < len(values)):
            raise ValueError(f"space.{key} must have different values, got {list(values)}")
        if isinstance(values, Range) and self.method == "grid":
            raise ValueError(
                f"space.{key} must be a list of values for method grid, got a range from {values.low:g} to "
                f"{values.high:g}; list them, or take method random"
            )

    def list_space(self, learning_rate: float) -> Space:
        """What is searched, by key in alphabetical order; `learning_rate` is the configured one."""
        given = {key: values for key, values in self.space.items() if values is not None}
        if not given and self.method == "grid":
            factors = [math.sqrt(10) ** power for power in (-2, -1, 0, 1, 2)]
            return {LEARNING_RATE: tuple(_round(learning_rate * factor) for factor in factors)}
        if not given:
            return {LEARNING_RATE: Range(low=learning_rate / 10, high=learning_rate * 10, log=True)}
        return dict(sorted(given.items()))

    def identity(self) -> dict[str, Any]:
        """What the candidates and their values depend on."""
        left_out = ("max_parallel", "space", *(("num_trials",) if self.method == "grid" else ()))
        mine = {name: value for name, value in asdict(self).items() if name not in left_out}
        others = {"halving_factor": "halving", "min_epochs_fraction": "halving", "optuna_batch": "optuna"}
        return {name: value for name, value in mine.items() if others.get(name, self.method) == self.method}


def count_different(values: Choice) -> int:
    """1 and 1.0 are one value; 1 and true, or "1", are two."""
    return len({(type(value) is bool, value) for value in values})


def _round(value: float) -> float:
    """Four digits, as a person writes it."""
    return float(f"{value:.4g}")
