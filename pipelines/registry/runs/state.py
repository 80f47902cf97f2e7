"""Whether a training has run: what a plan asks. Loads no MLflow if the store has answered before."""

from pipelines.finetune.results import display_result, read_result
from pipelines.finetune.training import Training
from pipelines.registry.lookup import Lookup
from pipelines.registry.runs.current import POINTER, CurrentRun, read_current


def find_state(
    training: Training, lookup: Lookup, *, experiment: str, folder: str
) -> tuple[bool, str, dict[str, str]]:
    """Whether the training is finished and the current one of `folder`; why; facts of its result for a
    person.
    """
    run_id = find_finished(training, lookup, experiment)
    if run_id is None:
        return False, "no finished run of these sequences and settings yet", {}
    current, wanted = read_current(folder), CurrentRun(run_id, training.fingerprint, training.folder)
    note = f"; {POINTER} is missing" if current is None else "; another training came after it"
    why = f"run {run_id} was trained from the same sequences and settings"
    facts = display_result(read_result(training.folder))
    return (True, why, facts) if current == wanted else (False, why + note, facts)


def find_finished(training: Training, lookup: Lookup, experiment: str) -> str | None:
    """Id of the finished run with this fingerprint, if its result is there too."""
    if read_result(training.folder) is None:
        return None
    return lookup.find_finished_run(experiment, training.fingerprint)
