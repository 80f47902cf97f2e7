"""A trial: one training of a candidate, as one rank, on the whole train split or without one of its folds.

It is named by the digest of its settings and data. What came of it stands in its folder, which no other trial
has: `result.json` as of any training, or `failure.json`. So a trial is trained once, whichever search asks.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.finetune.results import read_result
from pipelines.finetune.search.score import Candidate, Score
from pipelines.finetune.training import Fold, Training
from pipelines.storage import Folder

FAILURE = "failure.json"
FOLD_SPLIT = "fold"
"""What the metrics of a held-out fold are called by."""
LARGE = ("checkpoints", "model", "reference.json", "opened")
"""What nobody needs of a trial that has ended: the best settings are trained again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One training of a search."""

    id: str
    """32 hex digits; equal trials of other searches have the same."""
    candidate: Candidate
    training: Training

    @property
    def name(self) -> str:
        """For a person."""
        fold, rung = self.training.data.fold, self.candidate.rung
        parts = [f"trial {self.candidate.number}"]
        parts += [f"round {rung + 1}"] if rung or self.candidate.epochs_fraction < 1 else []
        parts += [] if fold is None else [f"fold {fold.number}"]
        return ", ".join(parts)


def make_trial(training: Training, candidate: Candidate, fold: Fold | None, searches: str) -> Trial:
    """The trial of a planned training, in a folder of its own below `searches`.

    It never reads the final split: the model that is kept is measured there, once.
    Raises ValueError for folds of a training with a mixture, whose plan counts the whole split.
    """
    from pipelines.pin import fingerprint

    if fold is not None and training.mixture is not None:
        raise ValueError(
            "finetune.search.num_folds is set, and finetune.mixture plans for the whole train split; set "
            "num_folds to null, or search without a mixture"
        )
    split = training.data.evaluation_split if fold is None else FOLD_SPLIT
    data = replace(training.data, evaluation_split=split, final_split=split, fold=fold)
    part = None if fold is None else fold.identity()
    made_from = fingerprint("trial", training.fingerprint, part)
    folder = (Folder(searches) / f"trials/{made_from}").path
    cadence = replace(training.cadence, sequence_losses=False)  # nobody asks a trial for its spikes
    # As little do they ask what its machine did; one rank has no Horovod, whose timeline could be recorded.
    execution = replace(training.execution, timeline=False, system_metrics=False)
    named = replace(
        training, data=data, cadence=cadence, execution=execution, fingerprint=made_from, folder=folder
    )
    return Trial(id=made_from, candidate=candidate, training=named)


def list_different(trials: Sequence[Trial]) -> list[Trial]:
    """The first trial of each id, in their order.

    Two candidates may mean one training: they may differ in a setting that the others leave without effect,
    and Optuna may propose a candidate again.
    """
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(trial.id, trial)
    return list(first.values())


def read_failure(trial: Trial) -> str | None:
    """The error of a trial that will fail again; None if there is none."""
    folder = Folder(trial.training.folder)
    return str(json.loads(folder.read(FAILURE))["error"]) if folder.exists(FAILURE) else None


def write_failure(trial: Trial, error: str) -> None:
    """`error` has no secrets."""
    Folder(trial.training.folder).write(FAILURE, json.dumps({"error": error}).encode())


def forget_failure(trial: Trial) -> None:
    """The trial is tried again, from its start."""
    Folder(trial.training.folder).delete(FAILURE)


def delete_large(trial: Trial) -> None:
    """Delete checkpoints and model of a trial that has a result or has failed. A lost trial keeps them: it
    continues from its newest checkpoint."""
    folder = Folder(trial.training.folder)
    for name in LARGE:
        folder.delete(name)


def read_score(candidate: Candidate, trials: list[Trial], metric: str | None, lost: dict[str, str]) -> Score:
    """What came of the trials of a candidate. `lost`: errors by trial id that are not kept. A candidate is
    lost if none of its trials failed: then it may have a value another time.

    Raises ValueError if the task does not have the metric.
    """
    values, name, lost_error = [], "", None
    for trial in trials:
        result = read_result(trial.training.folder)
        if result is None:
            error = read_failure(trial)
            if error is not None:
                return Score(candidate=candidate, error=error)
            lost_error = lost_error or lost.get(trial.id) or "it did not end"
            continue
        name = metric or str(result["metric"])
        values.append(_read_value(result, name, trial.training.spec.task))
    if lost_error is not None:
        return Score(candidate=candidate, error=lost_error, is_lost=True)
    return Score(candidate=candidate, metric=name, values=tuple(values))


def _read_value(result: dict[str, Any], metric: str, task: str) -> float:
    """Of the best checkpoint, on the split or fold that was held out."""
    if metric not in result["after"]:
        raise ValueError(
            f"finetune.search.metric is {metric}, but task {task} measures only "
            f"{', '.join(sorted(result['after']))}; take one of these, or null"
        )
    return float(result["after"][metric])
