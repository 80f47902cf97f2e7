"""Is a training finished, and the current one of its folder? Loads no MLflow if the answers were kept."""

from pipelines.finetune.results import display_result, read_result
from pipelines.finetune.training import Training
from pipelines.registry.lookup import Lookup
from pipelines.registry.runs.current import POINTER, CurrentRun, read_current


def find_state(
    training: Training, lookup: Lookup, experiment: str, folder: str
) -> tuple[bool, str, dict[str, str]]:
    """(the training is up to date, the reason, facts of its result for a person).

    Up to date: it is finished, and it is the current training of `folder`.
    """
    result = read_result(training.folder)
    run_id = None if result is None else lookup.find_finished_run(experiment, training.fingerprint)
    if run_id is None:
        return False, "no finished run of these sequences and settings yet", {}
    why, facts = f"run {run_id} was trained from the same sequences and settings", display_result(result)
    current = read_current(folder)
    if current == CurrentRun(run_id, training.fingerprint, training.folder):
        return True, why, facts
    note = f"{POINTER} is missing" if current is None else "another training came after it"
    return False, f"{why}; {note}", facts
