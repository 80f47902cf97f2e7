"""Between the finetune job and its run: the training that a configuration means, its progress, its record in MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.shell.plan import Plan, require_unmodified_table
from jobs.shell.progress import Progress
from jobs.shell.redaction import redact
from jobs.shell.settings import Tracking
from jobs.watcher import Watcher
from pipelines.dataset.reader import open_split
from pipelines.dataset.tokenizer import base_identity, read_tokenizer
from pipelines.finetune.launch.barrier import require_slots, run_ranks
from pipelines.finetune.loop import BatchPlan
from pipelines.finetune.models.build import ModelSpec
from pipelines.finetune.worker import Training, identity, result_of, train_rank
from pipelines.lease import Lease
from pipelines.pin import Pin, fingerprint
from pipelines.registry.runs.current import FOLDER_TAG, POINTER, CurrentRun, read_current
from pipelines.registry.runs.tracker import Tracker, find_run
from pipelines.registry.store import connect
from pipelines.scoring.predict import Predictor
from pipelines.spark import session
from pipelines.storage import Folder

if TYPE_CHECKING:
    from jobs.finetune import Config

REVISION = 2
"""Raised when equal sequences and settings give other weights than before."""
NUM_SAMPLES, PROMPT_TOKENS = 4, 24
FROM_CONFIG = (
    "num_epochs",
    "global_batch",
    "micro_batch",
    "window_batches",
    "seed",
    "num_threads",
    "optimization",
    "evaluation_split",
    "final_split",
    "evaluate_every_steps",
    "checkpoint_every_steps",
    "log_every_steps",
)


def training_of(config: "Config") -> tuple[Training, str, Pin]:
    """The training, its fingerprint, which also names its folder, and the sequences it is pinned to."""
    BatchPlan(global_batch=config.global_batch, micro_batch=config.micro_batch, world_size=config.num_ranks)
    pinned = require_unmodified_table(config.sequences, "sequences", "dataset")
    facts = pinned.facts
    spec = ModelSpec(
        task=facts["task"],
        labels=tuple(facts["labels"]),
        max_tokens=facts["sequence_length"],
        base=config.model.start(),
        tokenizer=facts["tokenizer"],
    )
    training = Training(
        folder="",
        sequences=pinned.path,
        tokenizers=config.tokenizers,
        table_id=pinned.table_id,
        version=pinned.version,
        spec=spec,
        architecture=config.model,
        **{name: getattr(config, name) for name in FROM_CONFIG},
    )
    made_from = fingerprint(
        "finetune", REVISION, identity(training), pinned.identity(), base_identity(config.model.base)
    )
    return replace(training, folder=(Folder(config.folder) / made_from).path), made_from, pinned


def finished_run(tracking: Tracking, training: Training, made_from: str) -> str | None:
    """Id of the finished run with this fingerprint, if its result is there, too."""
    connect(tracking.uri, tracking.artifacts)
    run = find_run(tracking.experiment, made_from)
    if run is None or run.info.status != "FINISHED" or result_of(training.folder) is None:
        return None
    return str(run.info.run_id)


def plan_for(config: "Config", training: Training, made_from: str) -> Plan[None]:
    """Up to date if there is a finished run and the stage's folder names it as the current one."""
    run_id = finished_run(config.tracking, training, made_from)
    if run_id is None:
        return Plan(
            fingerprint=made_from, up_to_date=False, why="no finished run of these sequences and settings yet"
        )
    current = read_current(config.folder)
    is_current = current == CurrentRun(run_id, made_from, training.folder)
    after = (
        ""
        if is_current
        else f"; {POINTER} is missing"
        if current is None
        else "; another training came after it"
    )
    return Plan(
        fingerprint=made_from,
        up_to_date=is_current,
        why=f"run {run_id} was trained from the same sequences and settings{after}",
    )


def run_training(
    config: "Config", training: Training, made_from: str, sequences: Pin, *, lease: Lease, work: Progress
) -> str:
    """Train, or go on, unless the result is there; id of the finished run that holds it."""
    work.phase("starting Spark")
    spark = session("distributary finetune", config.spark)
    require_slots(spark, config.num_ranks)
    with tracked(config, training, made_from, sequences) as tracker:
        run = Tracked(tracker, training, lease, work)
        if result_of(training.folder) is None:
            work.phase(f"launching {config.num_ranks} ranks")
            run_ranks(
                spark, partial(train_rank, training), num_ranks=config.num_ranks, while_waiting=run.watch
            )
        work.phase("writing pictures to the run")
        run.conclude()
    return tracker.run_id


class Tracked:
    """The run of a training that is under way."""

    def __init__(self, tracker: Tracker, training: Training, lease: Lease, work: Progress) -> None:
        self._tracker, self._training, self._lease = tracker, training, lease
        self._events = Watcher(training.folder, work, tracker.log)

    def watch(self) -> None:
        """Show and keep what is new. Raises RuntimeError if another driver has taken over."""
        self._lease.require()
        self._events.look()

    def conclude(self) -> None:
        """Add the last events, pictures and final metrics."""
        tracker, training = self._tracker, self._training
        result = result_of(training.folder)
        assert result is not None, "rank 0 writes the result before the launch returns"
        self._events.drain()
        self._lease.require()
        tracker.log_loss_curve(
            train="train/loss",
            evaluation=f"{training.evaluation_split}/loss",
            learning_rate="train/learning_rate",
            title="Training",
        )
        if result["confusion"] is not None:
            title = f"{training.final_split} after training"
            tracker.log_confusion(np.asarray(result["confusion"]), list(training.spec.labels), title=title)
        if training.spec.task == "language_modelling":
            tracker.log_text("sample.txt", sample_text(training))
        tracker.finish({f"final/{name}": value for name, value in result["after"].items()})


def sample_text(training: Training) -> str:
    """What a language model writes after the beginnings of some held-out sequences, for a person to read."""
    reader = open_split(
        training.sequences,
        table_id=training.table_id,
        version=training.version,
        split=training.evaluation_split,
    )
    tokenizer = read_tokenizer(training.tokenizers, training.spec.tokenizer)
    rows = reader.rows(np.arange(min(NUM_SAMPLES, len(reader))))
    prompts = [tokenizer.decode(tokens[:PROMPT_TOKENS].tolist()) for tokens in rows.input_ids]
    with Folder(training.folder).local("model") as folder:
        written = Predictor.load(folder).predict(prompts)
    pairs = zip(prompts, written, strict=True)
    return "\n\n".join(f"[prompt] {prompt}\n[model]  {each.prediction}" for prompt, each in pairs) + "\n"


@contextmanager
def tracked(config: "Config", training: Training, made_from: str, sequences: Pin) -> Iterator[Tracker]:
    """The run of this training, started or continued; failed with the error if one passes through."""
    with Tracker(config.tracking.experiment, made_from, tags={FOLDER_TAG: training.folder}) as tracker:
        settings = {name: value for name, value in asdict(training).items() if name not in ("spec", "folder")}
        tracker.log_params(redact({**settings, "num_ranks": config.num_ranks, "task": training.spec.task}))
        tracker.log_config(config.effective)
        tracker.log_environment()
        tracker.log_inputs([sequences, Pin(**sequences.facts["documents"])])
        yield tracker


def told(result: dict[str, Any] | None) -> dict[str, str]:
    """What a person wants to know of a finished training."""
    if result is None:
        return {}
    metric = result["metric"]
    return {
        f"{metric} before": f"{result['before'][metric]:.4f}",
        f"{metric} after": f"{result['after'][metric]:.4f}",
        "steps": f"{result['total_steps']:,}",
    }
