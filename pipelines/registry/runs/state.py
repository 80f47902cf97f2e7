"""Is a training finished, and the current one of its folder? Loads no MLflow if the answers were kept."""

from typing import NamedTuple

from pipelines.finetune.results import display_result, read_result
from pipelines.finetune.training import Training
from pipelines.registry.lookup import Lookup
from pipelines.registry.runs.current import POINTER, CurrentRun, read_current


class TrainingState(NamedTuple):
    """How far a training is, in the words of a plan."""

    up_to_date: bool
    """It is finished, and it is the current training of its folder."""
    needs_spark: bool
    """It is not finished; else only the pointer to the current training is missing."""
    why: str
    facts: dict[str, str]
    """Of its result, for a person."""


def find_state(training: Training, lookup: Lookup, experiment: str, folder: str) -> TrainingState:
    """How far the training is; `folder` names the current one."""
    result = read_result(training.folder)
    run_id = None if result is None else lookup.find_finished_run(experiment, training.fingerprint)
    if run_id is None:
        return TrainingState(False, True, "no finished run of these sequences and settings yet", {})
    why, facts = f"run {run_id} was trained from the same sequences and settings", display_result(result)
    current = read_current(folder)
    if current == CurrentRun(run_id, training.fingerprint, training.folder):
        return TrainingState(True, False, why, facts)
    note = f"{POINTER} is missing" if current is None else "another training came after it"
    return TrainingState(False, False, f"{why}; {note}", facts)
