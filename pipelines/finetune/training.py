"""All that one training is made of: plain values, no torch, so that jobs can plan a training without loading
it.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipelines.dataset.mixing.rules import Curriculum
from pipelines.finetune.models.architecture import Architecture, ModelSpec

if TYPE_CHECKING:
    import numpy as np

    from pipelines.dataset.mixing.plan import MixturePlan

REVISION = 3
"""Raise it when equal sequences and settings give other weights than before."""

StrategyName = Literal["auto", "single", "data_parallel", "sharded_optimizer"]
Backend = Literal["horovod", "torch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """AdamW (Loshchilov and Hutter 2019) and its learning rate over time."""

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
    """A longer gradient is clipped to this L2 norm."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay per step of the running means of gradients and of their squares."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "head_learning_rate_factor", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}")
        for name in ("warmup_fraction", "final_learning_rate_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")


def learning_rate(step: int, total_steps: int, optimization: Optimization) -> float:
    """Rate of `step` (from 0): linear warm-up, then half a cosine down to the final fraction."""
    warmup = max(1, round(optimization.warmup_fraction * total_steps))
    if step < warmup:
        return optimization.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    floor = optimization.final_learning_rate_fraction
    return optimization.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The pinned sequences, and what each split is for. Training reads the split `train`."""

    sequences: str
    """Sequences table."""
    tokenizers: str
    """Folder with the tokenizer of the sequences."""
    table_id: str
    version: int
    evaluation_split: str
    """Evaluated during training; its metric chooses the best checkpoint."""
    final_split: str
    """Evaluated before the first and after the last step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Which rows every step trains on: together with the table it fixes the order of the data."""

    num_epochs: float
    """How often every train sequence is seen. With a mixture: steps x global_batch over the sequences that
    are used, whichever source fills the steps."""
    global_batch: int
    """Sequences per step, over all ranks."""
    window_batches: int
    """Batches among which rows of similar length are grouped; 1 = plain shuffle."""
    seed: int
    """Of new weights, the order of sequences, masks and dropout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cadence:
    """How often a training measures, saves and reports, in optimizer steps."""

    evaluate_every_steps: int
    checkpoint_every_steps: int
    log_every_steps: int
    max_evaluation_sequences: int | None = None
    """Most sequences of a split that an evaluation measures, always the same ones; None = all."""

    def __post_init__(self) -> None:
        if self.max_evaluation_sequences is not None and self.max_evaluation_sequences < 1:
            raise ValueError(
                f"max_evaluation_sequences must be at least 1 or null, got {self.max_evaluation_sequences}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How the ranks run. A training that started under one execution can continue under another."""

    micro_batch: int
    """Most sequences that a rank holds in one forward pass."""
    num_threads: int
    """CPU threads per rank."""
    strategy: StrategyName = "auto"
    """auto = single for one rank, data_parallel for several."""
    collectives: Backend = "horovod"
    """Who carries tensors between ranks; not used by one rank."""
    gpus_per_rank: float = 0.0
    """GPUs that each rank requests from Spark; 0 = what every task of the application gets."""
    max_copies_gb: float | None = None
    """GB that all local copies of sequences may take on a machine; None = what its disk has."""

    def __post_init__(self) -> None:
        if not 0 <= self.gpus_per_rank <= 1:
            raise ValueError(
                f"gpus_per_rank must be in [0, 1], got {self.gpus_per_rank:g}: a rank trains on one GPU "
                "(1) or on a part of one (0.5 = two ranks per GPU); for more GPUs raise num_ranks"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """On CPU, equal trainings with equally many ranks give equal weights."""

    fingerprint: str
    """Of everything that the weights depend on: names the run folder and the run."""
    folder: str
    """Run folder on storage that every rank sees."""
    data: Data
    spec: ModelSpec
    architecture: Architecture
    optimization: Optimization
    schedule: Schedule
    cadence: Cadence
    execution: Execution
    mixture: "MixturePlan | None" = None
    """What is read of every source; None = every train sequence num_epochs times."""
    curriculum: Curriculum | None = None
    """Which sequences come first; None = random order."""

    def identity(self) -> dict[str, Any]:
        """What the weights depend on: everything but where the training runs, how, and how often it reports.

        The evaluation cadence is part of it, because the best checkpoint is one of those evaluated; so is the
        limit of sequences, the mixture and the curriculum, where there is one.
        """
        limit, mixture = self.cadence.max_evaluation_sequences, self.mixture
        return {
            **({} if limit is None else {"max_evaluation_sequences": limit}),
            **({} if mixture is None else {"mixture": mixture.identity()}),
            **({} if self.curriculum is None else {"curriculum": asdict(self.curriculum)}),
            "spec": self.spec.identity(),
            **{name: asdict(getattr(self, name)) for name in ("architecture", "optimization", "schedule")},
            "data": {
                name: getattr(self.data, name)
                for name in ("table_id", "version", "evaluation_split", "final_split")
            },
            "evaluate_every_steps": self.cadence.evaluate_every_steps,
        }

    def settings(self) -> dict[str, Any]:
        """Every value by its own name, for the record of a run."""
        parts = (self.data, self.optimization, self.schedule, self.cadence, self.execution)
        fraction, retrieval = self.spec.mask_fraction, self.spec.retrieval
        return {
            "task": self.spec.task,
            **({} if fraction is None else {"mask_fraction": fraction}),
            **({} if retrieval is None else asdict(retrieval)),
            "architecture": asdict(self.architecture),
            **({} if self.mixture is None else {"mixture_id": self.mixture.id}),
            **({} if self.curriculum is None else {"curriculum": asdict(self.curriculum)}),
            **{name: value for part in parts for name, value in asdict(part).items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """How the rows of a global batch are dealt to data replicas and micro-batches."""

    global_batch: int
    micro_batch: int
    """Most rows a rank holds in one forward pass."""
    num_replicas: int

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.micro_batch < 1:
            raise ValueError(
                f"global_batch and micro_batch must be at least 1, got {self.global_batch} and "
                f"{self.micro_batch}"
            )
        if self.global_batch % self.num_replicas:
            near = max(1, round(self.global_batch / self.num_replicas)) * self.num_replicas
            raise ValueError(
                f"global_batch must be a multiple of num_ranks ({self.num_replicas}), got "
                f"{self.global_batch}; try {near}"
            )

    @property
    def num_micro_batches(self) -> int:
        """Backward passes per step, the same on every rank."""
        return -(-self.global_batch // self.num_replicas // self.micro_batch)

    def deal(self, rows: "np.ndarray", data_rank: int) -> "np.ndarray":
        """This replica's rows of a global batch, in their order."""
        return rows[data_rank :: self.num_replicas]

    def micro_batches(self, rows: "np.ndarray", data_rank: int) -> "Iterator[np.ndarray]":
        """This replica's rows of a global batch, in `num_micro_batches` parts that differ by one row at
        most.
        """
        mine = self.deal(rows, data_rank)
        size, num_longer = divmod(len(mine), self.num_micro_batches)
        start = 0
        for number in range(self.num_micro_batches):
            stop = start + size + (number < num_longer)
            yield mine[start:stop]
            start = stop
