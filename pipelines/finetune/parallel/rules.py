"""What a strategy can train, and the settings of local SGD. Plain values, no torch: a job refuses a training
before anything starts.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Backend = Literal["horovod", "torch"]
SHARDED = ("sharded_optimizer", "fully_sharded")
"""Strategies in which a rank updates pieces of parameters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalSgdRules:
    """Local SGD (Stich 2019) and DiLoCo (Douillard et al. 2023, arXiv 2311.08105): each rank trains alone for
    some steps, then the mean of what the ranks have changed is the gradient of an outer step."""

    inner_steps: int = 32
    """Steps between two synchronisations."""
    outer_learning_rate: float = 0.7
    """Share of the mean change that the common weights take over."""
    outer_momentum: float = 0.0
    """Nesterov momentum of the outer steps; 0 = none."""

    def __post_init__(self) -> None:
        name = "finetune.local_sgd"
        if self.inner_steps < 1:
            raise ValueError(f"{name}.inner_steps must be at least 1, got {self.inner_steps}")
        if not self.outer_learning_rate > 0:
            raise ValueError(
                f"{name}.outer_learning_rate must be greater than 0, got {self.outer_learning_rate}"
            )
        if not 0 <= self.outer_momentum < 1:
            raise ValueError(f"{name}.outer_momentum must be in [0, 1), got {self.outer_momentum}")

    def identity(self) -> dict[str, Any]:
        """What the weights depend on."""
        return asdict(self)


def choose_collectives(strategy: str, collectives: Backend) -> Backend:
    """Who carries tensors: FSDP is a part of torch, and works with torch.distributed alone."""
    return "torch" if strategy == "fully_sharded" else collectives


def require_supported(settings: Any, task: str) -> None:
    """Raise ValueError if the strategy of `settings` (the finetune section of the configuration) can't train
    the task, or can't do what else they ask for."""
    strategy = settings.strategy
    if strategy == "single" and settings.num_ranks > 1:
        raise ValueError(
            f"finetune.strategy is single, but finetune.num_ranks is {settings.num_ranks}; set "
            "finetune.num_ranks=1 or another strategy"
        )
    if strategy in SHARDED:
        settings.optimization.require_shardable(strategy)
    faults = {"fully_sharded": _find_fault_of_fsdp, "local_sgd": _find_fault_of_local_sgd}
    fault = faults[strategy](settings, task) if strategy in faults else None
    if fault is not None:
        raise ValueError(f"finetune.strategy is {strategy}, {fault}")


def _find_fault_of_fsdp(settings: Any, task: str) -> str | None:
    if settings.compile:
        return (
            "which gathers and drops the weights of a layer in hooks that a compiled layer can't have; set "
            "finetune.compile=false"
        )
    if settings.compare_replicas_every_steps is not None:
        return (
            "in which no rank holds what another one has, so that finetune.compare_replicas_every_steps has "
            "nothing to compare; set it to null"
        )
    if task == "preference" and settings.preference.loss == "dpo":
        return (
            "but finetune.preference.loss dpo keeps a second copy of the model whole on each rank; set "
            "loss to orpo, or strategy to sharded_optimizer"
        )
    return None


def _find_fault_of_local_sgd(settings: Any, task: str) -> str | None:
    if settings.num_ranks < 2:
        return f"which needs at least 2 ranks, got finetune.num_ranks={settings.num_ranks}; set strategy=auto"
    if settings.precision == "float16":
        return (
            "in which each rank would scale its loss by another factor in float16; set "
            "finetune.precision=bfloat16 or float32"
        )
    if settings.optimization.ema_decay is not None:
        return (
            "which evaluates the mean over the ranks, and finetune.optimization.ema_decay asks for a mean "
            "over steps; set ema_decay=null"
        )
    every, inner = settings.compare_replicas_every_steps, settings.local_sgd.inner_steps
    if every is not None and every % inner:
        return (
            "in which ranks hold equal weights only after a synchronisation, but "
            f"finetune.compare_replicas_every_steps is {every}; set it to a multiple of "
            f"finetune.local_sgd.inner_steps, {inner}, or to null"
        )
    if settings.sequence_losses:
        return (
            "in which a rank may diverge alone, and finetune.sequence_losses is written by all ranks "
            "together; set it to false"
        )
    if task == "retrieval":
        return (
            "in which a rank sees its own rows alone, but task retrieval compares the rows of all ranks at "
            "every step; set strategy=data_parallel"
        )
    return None
