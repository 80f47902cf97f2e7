"""Between the finetune job and its run: the training that a configuration means, its progress, its record in MLflow."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.config import Tracking, redact
from jobs.plan import required
from jobs.stage import Working
from pipelines.dataset.reader import open_split
from pipelines.dataset.tokenizer import base_identity, read_tokenizer
from pipelines.delta import Pin, fingerprint
from pipelines.finetune.events import EventReader
from pipelines.finetune.loop import BatchPlan
from pipelines.finetune.model import ModelSpec
from pipelines.finetune.train import Training, identity
from pipelines.registry.runs import FOLDER_TAG
from pipelines.registry.store import connect
from pipelines.registry.tracking import Tracker, find_run
from pipelines.scoring.predict import Predictor
from pipelines.storage import Folder, absolute

if TYPE_CHECKING:
    from jobs.finetune import Config

logger = logging.getLogger(__name__)

REVISION = 1
"""Raised when equal sequences and settings give other weights than before."""
NUM_SAMPLES, PROMPT_TOKENS = 4, 24
FROM_CONFIG = ("num_epochs", "global_batch", "micro_batch", "window_batches", "seed", "num_threads", "optimization",
               "evaluation_split", "final_split", "evaluate_every_steps", "checkpoint_every_steps", "log_every_steps")


def training_of(config: "Config") -> tuple[Training, str, Pin]:
    """The training, its fingerprint, which also names its folder, and the sequences it is pinned to."""
    BatchPlan(global_batch=config.global_batch, micro_batch=config.micro_batch, world_size=config.num_ranks)
    pinned = required(absolute(config.sequences), "sequences", "dataset")
    facts = pinned.facts
    spec = ModelSpec(task=facts["task"], labels=tuple(facts["labels"]), max_tokens=facts["sequence_length"],
                     base=config.model.start(), tokenizer=facts["tokenizer"])
    training = Training(folder="", sequences=pinned.path, tokenizers=absolute(config.tokenizers), table_id=pinned.table_id,
                        version=pinned.version, spec=spec, architecture=config.model,
                        **{name: getattr(config, name) for name in FROM_CONFIG})
    made_from = fingerprint("finetune", REVISION, identity(training), pinned.identity(), base_identity(config.model.base))
    return replace(training, folder=f"{absolute(config.folder)}/{made_from}"), made_from, pinned


def finished_run(tracking: Tracking, made_from: str) -> str | None:
    """Id of the finished run with this fingerprint."""
    connect(tracking.uri, tracking.artifacts)
    run = find_run(tracking.experiment, made_from)
    return str(run.info.run_id) if run is not None and run.info.status == "FINISHED" else None


class Tracked:
    """The run of a training."""

    def __init__(self, tracker: Tracker, training: Training) -> None:
        self._tracker, self._training = tracker, training
        self.log = tracker.log

    def conclude(self, result: dict[str, Any] | None, labels: tuple[str, ...]) -> dict[str, Any]:
        """Add pictures and final metrics."""
        assert result is not None, "rank 0 writes the result before the launch returns"
        tracker, training = self._tracker, self._training
        tracker.log_loss_curve(train="train/loss", evaluation=f"{training.evaluation_split}/loss",
                               learning_rate="train/learning_rate", title="Training")
        if result["confusion"] is not None:
            title = f"{training.final_split} after training"
            tracker.log_confusion(np.asarray(result["confusion"]), list(labels), title=title)
        if self._training.spec.task == "language_modelling":
            tracker.log_text("sample.txt", sample_text(self._training))
        tracker.finish({f"final/{name}": value for name, value in result["after"].items()})
        return result


def sample_text(training: Training) -> str:
    """What a language model writes after the beginnings of some held-out sequences, for a person to read."""
    reader = open_split(training.sequences, table_id=training.table_id, version=training.version,
                        split=training.evaluation_split)
    tokenizer = read_tokenizer(training.tokenizers, training.spec.tokenizer)
    rows = reader.rows(np.arange(min(NUM_SAMPLES, len(reader))))
    prompts = [tokenizer.decode(tokens[:PROMPT_TOKENS].tolist()) for tokens in rows.input_ids]
    with Folder(training.folder).local("model") as folder:
        written = Predictor.load(folder).predict(prompts)
    pairs = zip(prompts, written, strict=True)
    return "\n\n".join(f"[prompt] {prompt}\n[model]  {each.prediction}" for prompt, each in pairs) + "\n"


@contextmanager
def tracked(config: "Config", training: Training, made_from: str, sequences: Pin) -> Iterator[Tracked]:
    """The run of this training, started or continued; failed with the error if one passes through."""
    connect(config.tracking.uri, config.tracking.artifacts)
    with Tracker(config.tracking.experiment, made_from, tags={FOLDER_TAG: training.folder}) as tracker:
        settings = {name: value for name, value in asdict(training).items() if name not in ("spec", "folder")}
        tracker.log_params(redact({**settings, "num_ranks": config.num_ranks, "task": training.spec.task}))
        tracker.log_config(config.effective)
        tracker.log_environment()
        tracker.log_inputs([sequences, Pin(**sequences.facts["documents"])])
        yield Tracked(tracker, training)


def watcher(folder: str, work: Working, log: Callable[[int, dict[str, float]], None]) -> Callable[[], None]:
    """A function that hands the events written since its last call to `work` and `log`."""
    reader = EventReader(Folder(folder) / "events")

    def watch() -> None:
        try:
            events = list(reader.new())
        except OSError as error:
            logger.warning("the training's events cannot be read just now (%s); trying again", error)
            return
        for event in events:
            if event["kind"] == "note":
                work.update(event["text"])
            elif event["kind"] == "step":
                work.update(_step_line(event))
                log(event["step"], {"train/loss": event["loss"], "train/gradient_norm": event["gradient_norm"],
                                    "train/learning_rate": event["learning_rate"],
                                    "train/tokens_per_second": event["num_tokens"] / max(event["seconds"], 1e-9)})
            else:
                metrics = {name: value for name, value in event.items() if name not in ("kind", "step", "split")}
                log(event["step"], {f"{event['split']}/{name}": value for name, value in metrics.items()})
                shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
                work.line(f"step {event['step']}: {event['split']}: {shown}")

    return watch


def told(result: dict[str, Any] | None) -> dict[str, str]:
    """What a person wants to know of a finished training."""
    if result is None:
        return {}
    metric = result["metric"]
    return {f"{metric} before": f"{result['before'][metric]:.4f}", f"{metric} after": f"{result['after'][metric]:.4f}",
            "steps": f"{result['total_steps']:,}"}


def _step_line(event: dict[str, Any]) -> str:
    left = (event["total_steps"] - event["step"]) * event["seconds"]
    rate = event["num_tokens"] / max(event["seconds"], 1e-9)
    return (f"step {event['step']}/{event['total_steps']}: loss {event['loss']:.4f}, {rate:,.0f} tokens/s, "
            f"about {left // 60:.0f} min {left % 60:.0f} s left")
