"""One rank's training from a pinned sequences table to a model folder; every rank runs the same function.

The run folder holds all a restart needs: `checkpoints/`, `events/`, `before.json` (metrics of the untrained model), and at the
end `model/` and `result.json`, which is written last. A second call continues from the newest checkpoint, or returns the result.
"""

import hashlib
import json
import math
import secrets
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.optim import Optimizer

from pipelines.dataset.order import Order, num_steps
from pipelines.dataset.reader import SequenceReader, open_split
from pipelines.dataset.tokenizer import read_tokenizer
from pipelines.finetune.checkpoint.whole import Progress, load_checkpoint, newest_checkpoint, save_checkpoint
from pipelines.finetune.evaluate import Evaluation, evaluate
from pipelines.finetune.events import EventWriter
from pipelines.finetune.launch.world import Place
from pipelines.finetune.loop import BatchPlan, StepResult, train
from pipelines.finetune.models.architecture import Architecture, ModelSpec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import save_model
from pipelines.finetune.optimizer import Optimization, build_optimizer
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.tasks.table import build_task
from pipelines.metrics import METRICS
from pipelines.storage import Folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """All that one training is made of; on CPU, equal trainings on equally many ranks give equal weights."""

    folder: str
    """Run folder on storage that every rank sees."""
    sequences: str
    tokenizers: str
    """Folder with the tokenizer of the sequences."""
    table_id: str
    version: int
    spec: ModelSpec
    architecture: Architecture
    optimization: Optimization
    num_epochs: float
    global_batch: int
    micro_batch: int
    window_batches: int
    """Batches between which rows of like length are gathered; 1 = plain shuffle."""
    seed: int
    evaluate_every_steps: int
    checkpoint_every_steps: int
    log_every_steps: int
    evaluation_split: str
    """Evaluated during training; its metric chooses the best checkpoint."""
    final_split: str
    """Evaluated before the first and after the last step."""
    num_threads: int
    """CPU threads of each rank."""


IDLE_GPU = (
    "trains on the CPU beside an idle GPU; give each task one (--conf spark.executor.resource.gpu.amount=1 "
    "--conf spark.task.resource.gpu.amount=1), and several ranks a Horovod built with NCCL: distributary doctor"
)


def result_of(folder: str) -> dict[str, Any] | None:
    """What a finished training wrote; None if it is not finished."""
    run = Folder(folder)
    return json.loads(run.read("result.json")) if run.exists("result.json") else None


def train_rank(training: Training, place: Place) -> dict[str, Any]:
    """Train on this rank, or return the result of a training that is finished. Rank 0's result names the weights' sha256 too."""
    finished = result_of(training.folder)
    if finished is not None:
        return finished
    torch.set_num_threads(training.num_threads)
    strategy = _strategy(place)
    return _Rank(training, strategy).run()


def _strategy(place: Place) -> Strategy:
    num_gpus = torch.cuda.device_count()
    if place.world_size == 1:
        return SingleProcess(torch.device(place.device(num_gpus, nccl=True)))
    # Horovod is needed by ranks that have peers only.
    from pipelines.finetune.parallel.data_parallel import DataParallel, nccl_built

    return DataParallel(torch.device(place.device(num_gpus, nccl=nccl_built())))


class _Rank:
    """The state that the steps of one training share."""

    def __init__(self, training: Training, strategy: Strategy) -> None:
        self._training, self._strategy = training, strategy
        self._run = Folder(training.folder)
        self._checkpoints, self._events = self._run / "checkpoints", EventWriter(self._run / "events")
        self._tokenizer: Tokenizer = read_tokenizer(training.tokenizers, training.spec.tokenizer)
        self._task = build_task(training.spec)
        self._train, self._validation, self._final = (
            self._open(split) for split in ("train", training.evaluation_split, training.final_split)
        )
        self._total_steps = num_steps(
            len(self._train), global_batch=training.global_batch, num_epochs=training.num_epochs
        )
        self._plan = BatchPlan(
            global_batch=training.global_batch,
            micro_batch=training.micro_batch,
            world_size=strategy.world_size,
        )
        self._progress = Progress(step=0, best_step=-1, best_value=0.0)
        self._model: nn.Module
        self._optimizer: Optimizer

    def run(self) -> dict[str, Any]:
        training, strategy = self._training, self._strategy
        self._require_shared_folder()
        self._note("building the model")
        if strategy.device.type == "cuda":
            torch.cuda.set_device(strategy.device)
        elif torch.cuda.is_available() and strategy.rank == 0:
            self._events.write("warning", step=0, text=IDLE_GPU)
        self._model = build_model(
            training.architecture,
            training.spec,
            vocab_size=self._tokenizer.get_vocab_size(),
            seed=training.seed,
        ).to(strategy.device)
        optimizer = build_optimizer(self._model, training.optimization)
        found = newest_checkpoint(self._checkpoints)
        self._require_agreement(found)
        if found is not None:
            load_checkpoint(self._checkpoints, found.step, self._model, optimizer)
            self._progress = found
            if strategy.rank == 0:
                self._events.write(
                    "note", step=found.step, text=f"continues from the checkpoint of step {found.step}"
                )
        self._optimizer = strategy.wrap(self._model, optimizer, accumulation=self._plan.accumulation)
        before = self._before()
        order = Order(
            self._train.lengths,
            global_batch=training.global_batch,
            total_steps=self._total_steps,
            seed=training.seed,
            window_batches=training.window_batches,
        )
        train(
            self._model,
            self._task,
            self._train,
            order,
            optimizer=self._optimizer,
            optimization=training.optimization,
            strategy=strategy,
            plan=self._plan,
            first_step=self._progress.step,
            total_steps=self._total_steps,
            seed=training.seed,
            after_step=self._after_step,
        )
        return self._finish(before)

    def _open(self, split: str) -> SequenceReader:
        training = self._training
        reader = open_split(
            training.sequences, table_id=training.table_id, version=training.version, split=split
        )
        if len(reader) < self._strategy.world_size:
            raise ValueError(
                f"split {split} of {training.sequences} has {len(reader)} sequences, "
                f"fewer than the {self._strategy.world_size} ranks; "
                "give the sources such a split (corpus.sources[].splits) or name another in finetune"
            )
        return reader

    def _require_shared_folder(self) -> None:
        """What rank 0 writes, every rank must be able to read: told now, not after hours of training."""
        number = secrets.randbelow(2**52)
        if self._strategy.rank == 0:
            self._run.write("started", str(number).encode())
        number = int(self._agree(number))
        if not self._run.exists("started") or int(self._run.read("started")) != number:
            raise FileNotFoundError(
                f"rank {self._strategy.rank} does not see what rank 0 writes in {self._training.folder}; "
                "put the root on storage that all machines share"
            )

    def _require_agreement(self, found: Progress | None) -> None:
        """All ranks must have found the same checkpoint: else the run folder is not on storage that all of them see."""
        step = torch.tensor([float(found.step if found else 0)])
        if (
            float(self._strategy.sum(step.clone(), name="checkpoint"))
            != float(step) * self._strategy.world_size
        ):
            raise FileNotFoundError(
                f"ranks do not see the same checkpoints in {self._training.folder}; "
                "put the root on shared storage"
            )

    def _before(self) -> dict[str, float]:
        if self._agree(float(self._run.exists("before.json"))):
            return json.loads(self._run.read("before.json"))
        evaluation = self._evaluate(self._final, self._training.final_split)
        if self._strategy.rank == 0:
            self._events.write("evaluation", step=0, split=self._training.final_split, **evaluation.metrics)
            self._events.close()
            self._run.write("before.json", json.dumps(evaluation.metrics).encode())
        return evaluation.metrics

    def _agree(self, value: float = 0.0) -> float:
        """Rank 0's `value`, on every rank. What rank 0 wrote before is there for all; nobody looks at what it writes next."""
        told = torch.tensor([value if self._strategy.rank == 0 else 0.0], dtype=torch.float64)
        return float(self._strategy.sum(told, name="agree"))

    def _evaluate(self, reader: SequenceReader, split: str) -> Evaluation:
        return evaluate(
            self._model,
            self._task,
            reader,
            self._strategy,
            batch_rows=self._training.micro_batch,
            progress=lambda share: self._note(f"evaluates {split}: {share:.0%}"),
        )

    def _after_step(self, step: int, result: StepResult) -> None:
        training = self._training
        last = step == self._total_steps
        if self._strategy.rank == 0 and (step % training.log_every_steps == 0 or last):
            self._events.write("step", step=step, total_steps=self._total_steps, **result._asdict())
        evaluates = step % training.evaluate_every_steps == 0 or last
        progress = replace(self._progress, step=step)
        if evaluates:
            metrics = self._evaluate(self._validation, training.evaluation_split).metrics
            value = metrics[self._task.metric]
            gain = METRICS[self._task.metric].gain(value, progress.best_value)
            if progress.best_step < 0 or gain > 0 or not math.isfinite(progress.best_value):
                progress = replace(progress, best_step=step, best_value=value)
            if self._strategy.rank == 0:
                self._events.write("evaluation", step=step, split=training.evaluation_split, **metrics)
        self._progress = progress
        if self._strategy.rank == 0 and (evaluates or step % training.checkpoint_every_steps == 0):
            # What a resumed training will not repeat must be on storage before it is left behind.
            self._events.close()
            save_checkpoint(self._checkpoints, self._model, self._optimizer, progress)
            self._note(f"checkpoint of step {step} written")

    def _finish(self, before: dict[str, float]) -> dict[str, Any]:
        """Final metrics of the best weights, the model folder, the result."""
        self._agree()
        if self._progress.best_step != self._total_steps:
            load_checkpoint(self._checkpoints, self._progress.best_step, self._model)
        final = self._evaluate(self._final, self._training.final_split)
        result = {
            "metric": self._task.metric,
            "before": before,
            "after": final.metrics,
            "best_step": self._progress.best_step,
            "best_value": self._progress.best_value,
            "total_steps": self._total_steps,
            "num_final_rows": len(self._final),
            "num_train_rows": len(self._train),
            "confusion": None if final.confusion is None else final.confusion.tolist(),
        }
        if self._strategy.rank == 0:
            result["weights"] = self._export()
            self._events.write(
                "final", step=self._total_steps, split=self._training.final_split, **final.metrics
            )
            self._events.close()
            self._run.write("result.json", json.dumps(result).encode())
        return result

    def _export(self) -> str:
        """Write the model folder; sha256 of its weights."""
        with tempfile.TemporaryDirectory() as scratch:
            save_model(self._model, self._tokenizer.to_str(), self._training.spec, Path(scratch))
            for file in sorted(Path(scratch).iterdir()):
                self._run.write(f"model/{file.name}", file.read_bytes())
            return hashlib.sha256((Path(scratch) / "model.safetensors").read_bytes()).hexdigest()

    def _note(self, text: str) -> None:
        if self._strategy.rank == 0:
            self._events.note(text, step=self._progress.step)


def identity(training: Training) -> dict[str, Any]:
    """What the weights depend on: the training without where it runs and how often it talks."""
    unimportant = {
        "folder",
        "sequences",
        "tokenizers",
        "micro_batch",
        "log_every_steps",
        "checkpoint_every_steps",
        "num_threads",
    }
    return {name: value for name, value in asdict(training).items() if name not in unimportant}
