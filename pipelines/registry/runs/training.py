"""The MLflow run of a training: its record while it runs and when it ends."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.finetune.losses.table import commit_losses
from pipelines.finetune.results import display_result, read_result, read_sample
from pipelines.finetune.training import Training
from pipelines.lease import Lease
from pipelines.pin import Pin
from pipelines.registry.runs.corpus import log_corpus
from pipelines.registry.runs.current import CurrentRun, write_current
from pipelines.registry.runs.dataset import log_sequences
from pipelines.registry.runs.mixture import log_mixture
from pipelines.registry.runs.step_times import log_step_times, log_system
from pipelines.registry.runs.tracker import Tracker, find_run, open_run
from pipelines.storage import Folder


@dataclass(frozen=True, slots=True)
class Description:
    """What a run says of its training besides metrics, all of it without secrets."""

    params: Mapping[str, Any]
    config: str
    """The whole configuration as YAML."""
    hide: Callable[[str], str]
    """Removes secrets from the text of an error: libraries repeat addresses and settings."""


@dataclass
class RunRecord:
    """A training's run while the training goes on."""

    tracker: Tracker | None
    """None if the run had finished before: nothing is added to it."""
    lease: Lease
    facts: dict[str, str] = field(default_factory=dict)
    """Set at the end: what a person wants to know of the result."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.tracker is not None:
            self.tracker.log(step, metrics)

    def require_lease(self) -> None:
        """Raises RuntimeError if another driver has taken over the run folder."""
        self.lease.require()


@contextmanager
def record_run(
    training: Training, inputs: Sequence[Pin], experiment: str, description: Description, folder: str
) -> Iterator[RunRecord]:
    """The run of this training, started or continued; concluded when the context ends well, else failed with
    the error.

    `inputs`: the sequences, and the mixture if the training has one.
    Holds the lease of the run folder. At the end the run is the current one of `folder`.
    """
    with Lease(Folder(training.folder)) as lease:
        run_id, documents = _find_finished(training, experiment), Pin(**inputs[0].facts["documents"])
        if run_id is not None:
            record = RunRecord(None, lease)
            yield record
        else:
            with open_run(
                experiment,
                training.fingerprint,
                folder=training.folder,
                params=description.params,
                config=description.config,
                inputs=[*inputs, documents],
                hide=description.hide,
            ) as tracker:
                record = RunRecord(tracker, lease)
                with log_system(tracker, training):
                    yield record
                lease.require()
                _conclude(tracker, training, inputs[0], documents)
                run_id = tracker.run_id
        lease.require()
        write_current(folder, CurrentRun(run_id, training.fingerprint, training.folder))
        record.facts = display_result(read_result(training.folder))


def _find_finished(training: Training, experiment: str) -> str | None:
    """Id of the finished run with this fingerprint, if its result is there too."""
    run = find_run(experiment, training.fingerprint)
    if run is None or run.info.status != "FINISHED" or read_result(training.folder) is None:
        return None
    return str(run.info.run_id)


def _conclude(tracker: Tracker, training: Training, sequences: Pin, documents: Pin) -> None:
    """Add pictures, sample text and final metrics of a finished training; its events must have been
    logged.
    """
    result = read_result(training.folder)
    assert result is not None, "rank 0 writes the result before the launch returns"
    data = training.data
    tracker.log_loss_curve(
        train="train/loss",
        evaluation=f"{data.evaluation_split}/loss",
        learning_rate="train/learning_rate",
        title=f"Training: loss on train and {data.evaluation_split}",
    )
    log_step_times(tracker, training)
    if training.mixture is not None:
        log_mixture(tracker, training.mixture)
    if result["confusion"] is not None:
        title = f"{data.final_split} after training"
        tracker.log_confusion(np.asarray(result["confusion"]), list(training.spec.labels), title=title)
    sample = read_sample(training.folder)
    if sample is not None:
        tracker.log_text("sample.txt", sample)
    commit_losses(training.folder, tracker.run_id)
    log_corpus(tracker, documents)
    log_sequences(tracker, sequences)
    tracker.finish({f"final/{name}": value for name, value in result["after"].items()})
