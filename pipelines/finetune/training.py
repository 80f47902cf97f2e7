"""All that one training is made of: plain values, no torch, so that jobs can plan a training without loading
it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipelines.dataset.mixing.rules import Curriculum
from pipelines.finetune.models.architecture import Architecture, ModelSpec
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.parallel.rules import Backend, LocalSgdRules
from pipelines.finetune.teacher import Teacher

if TYPE_CHECKING:
    import numpy as np

    from pipelines.dataset.mixing.plan import MixturePlan
    from pipelines.finetune.base_files import BaseFiles

REVISION = 3
"""Raise it when equal sequences and settings give other weights than before."""

StrategyName = Literal["auto", "single", "data_parallel", "sharded_optimizer", "fully_sharded", "local_sgd"]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """One of k parts of the train split: held out, while the others are trained on."""

    number: int
    """From 0."""
    num_folds: int
    seed: int
    file: str
    """The fold of each train sequence; see dataset.folds."""

    def identity(self) -> dict[str, Any]:
        """What the weights depend on."""
        return {"number": self.number, "num_folds": self.num_folds, "seed": self.seed}


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
    fold: Fold | None = None
    """Evaluated in place of both splits, and not trained on; None = train is trained on as a whole."""


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
    stop_after_evaluations: int | None = None
    """Training ends after so many evaluations in a row without gain; None = after its last step."""
    stop_min_gain: float = 0.0
    """A gain in the metric must be greater than this to count."""
    sequence_losses: bool = False
    """Whether the loss of each sequence at each step goes to a table beside the run."""

    def __post_init__(self) -> None:
        if self.stop_after_evaluations is not None and self.stop_after_evaluations < 1:
            raise ValueError(
                f"stop_after_evaluations must be at least 1 or null, got {self.stop_after_evaluations}"
            )
        if self.stop_min_gain < 0 or (self.stop_min_gain and self.stop_after_evaluations is None):
            raise ValueError(
                "stop_min_gain must be at least 0, and 0 while stop_after_evaluations is null, got "
                f"{self.stop_min_gain}"
            )
        if self.max_evaluation_sequences is not None and self.max_evaluation_sequences < 1:
            raise ValueError(
                f"max_evaluation_sequences must be at least 1 or null, got {self.max_evaluation_sequences}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How the ranks run. A training that started under one execution can continue under another, but not with
    or without local_sgd, which gives other weights."""

    micro_batch: int
    """Most sequences that a rank holds in one forward pass."""
    num_threads: int
    """CPU threads per rank."""
    strategy: StrategyName = "auto"
    """auto = single for one rank, data_parallel for several."""
    collectives: Backend = "horovod"
    """Who carries tensors between ranks; not used by one rank."""
    local_sgd: LocalSgdRules | None = None
    """Of strategy local_sgd; None = another strategy."""
    gpus_per_rank: float = 0.0
    """GPUs that each rank requests from Spark; 0 = what every task of the application gets."""
    activation_checkpointing: bool = False
    """Recompute the activations of each layer in backward instead of keeping them."""
    max_logit_tokens: int | None = None
    """Most tokens of a language model whose logits a rank holds at once; None = those of a micro-batch."""
    checkpoint_in_background: bool = True
    """Copy what a rank writes of a checkpoint, and write the copy while training goes on."""
    max_copies_gb: float | None = None
    """GB that all local copies of sequences may take on a machine; None = what its disk has."""
    compile: bool = False
    """Compile the layers of the model with torch.compile."""
    compare_replicas_every_steps: int | None = None
    """Optimizer steps between comparisons of the state that all ranks hold; None = none."""
    peak_tflops: float | None = None
    """10^12 FLOPs per second that the device of a rank could do; None = known from the name of the GPU."""
    timeline: bool = False
    """Record what Horovod does, in files of the run folder."""
    system_metrics: bool = False
    """Whether the use of processors, memory, disks, network and GPUs is logged."""

    def __post_init__(self) -> None:
        if not 0 <= self.gpus_per_rank <= 1:
            raise ValueError(
                f"gpus_per_rank must be in [0, 1], got {self.gpus_per_rank:g}: a rank trains on one GPU "
                "(1) or on a part of one (0.5 = two ranks per GPU); for more GPUs raise num_ranks"
            )
        every = self.compare_replicas_every_steps
        if every is not None and every < 1:
            raise ValueError(f"compare_replicas_every_steps must be at least 1 or null, got {every}")
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise ValueError(f"peak_tflops must be greater than 0 or null, got {self.peak_tflops:g}")


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
    precision: Precision = "float32"
    """Type in which forward and backward compute; weights, sums and losses are float32 in any case."""
    mixture: "MixturePlan | None" = None
    """What is read of every source; None = every train sequence num_epochs times."""
    curriculum: Curriculum | None = None
    """Which sequences come first; None = random order."""
    teacher: Teacher | None = None
    """From which model it also learns; None = there is none."""
    base_files: "BaseFiles | None" = None
    """Where ranks find a base that MLflow keeps; the driver says it when it launches them."""
    teacher_files: "BaseFiles | None" = None
    """The same of the teacher."""

    def identity(self) -> dict[str, Any]:
        """What the weights depend on: everything but where the training runs, how, and how often it reports.

        The evaluation cadence is part of it, because the best checkpoint is one of those evaluated; so is the
        limit of sequences, early stopping, a 16-bit precision, the mixture, the curriculum and local SGD,
        where there is one.
        """
        limit, mixture = self.cadence.max_evaluation_sequences, self.mixture
        local_sgd = self.execution.local_sgd
        stopping = (self.cadence.stop_after_evaluations, self.cadence.stop_min_gain)
        return {
            **({} if self.precision == "float32" else {"precision": self.precision}),
            **({} if stopping[0] is None else {"stopping": stopping}),
            **({} if limit is None else {"max_evaluation_sequences": limit}),
            **({} if mixture is None else {"mixture": mixture.identity()}),
            **({} if self.curriculum is None else {"curriculum": asdict(self.curriculum)}),
            **({} if local_sgd is None else {"local_sgd": local_sgd.identity()}),
            **({} if self.teacher is None else {"teacher": asdict(self.teacher)}),
            "spec": self.spec.identity(),
            "architecture": self.architecture.identity(),
            "schedule": asdict(self.schedule),
            "optimization": self.optimization.identity(),
            "data": {
                name: getattr(self.data, name)
                for name in ("table_id", "version", "evaluation_split", "final_split")
            },
            **({} if self.data.fold is None else {"fold": self.data.fold.identity()}),
            "evaluate_every_steps": self.cadence.evaluate_every_steps,
        }

    def settings(self) -> dict[str, Any]:
        """Every value by its own name, for the record of a run."""
        parts = (self.data, self.optimization, self.schedule, self.cadence, self.execution)
        spec = self.spec
        return {
            "task": self.spec.task,
            "precision": self.precision,
            **({} if spec.mask_fraction is None else {"mask_fraction": spec.mask_fraction}),
            **({} if spec.preference is None else {"preference": asdict(spec.preference)}),
            **({} if spec.retrieval is None else asdict(spec.retrieval)),
            **({} if spec.label_threshold is None else {"label_threshold": spec.label_threshold}),
            "architecture": self.architecture.identity(),
            **({} if self.mixture is None else {"mixture_id": self.mixture.id}),
            **({} if self.curriculum is None else {"curriculum": asdict(self.curriculum)}),
            **({} if self.teacher is None else {"teacher": asdict(self.teacher)}),
            **{
                name: value
                for part in parts
                for name, value in asdict(part).items()
                if name not in ("fold", "local_sgd") or value is not None
            },
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

    @classmethod
    def of(cls, training: Training, num_replicas: int) -> "BatchPlan":
        """That of a training."""
        size = training.schedule.global_batch
        return cls(global_batch=size, micro_batch=training.execution.micro_batch, num_replicas=num_replicas)

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
