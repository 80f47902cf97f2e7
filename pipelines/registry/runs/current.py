"""The run that counts for a flow: the finetune stage names it in its folder. The newest run of an experiment may be of another
configuration or of a colleague.
"""

import json
from typing import NamedTuple

from pipelines.registry import store  # noqa: F401  (before mlflow: switches its noise off)
from pipelines.storage import Folder

# isort: split
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

FOLDER_TAG = "distributary.folder"
"""Tag of a run: its folder with checkpoints, model and result."""
POINTER = "current.json"


class CurrentRun(NamedTuple):
    """A finished training."""

    run_id: str
    fingerprint: str
    """What it was made from."""
    folder: str
    """Its folder with model and result."""


def write_current(trainings: str, run: CurrentRun) -> None:
    """Make `run` the current one of the folder of trainings."""
    Folder(trainings).write(POINTER, json.dumps(run._asdict()).encode())


def read_current(trainings: str) -> CurrentRun | None:
    """What the pointer says; None if there is none."""
    folder = Folder(trainings)
    return CurrentRun(**json.loads(folder.read(POINTER))) if folder.exists(POINTER) else None


def current_run(trainings: str) -> CurrentRun:
    """The current run of the folder of trainings.

    Raises FileNotFoundError if no training ended there, LookupError if MLflow has no such run or does not call it finished.
    """
    current = read_current(trainings)
    if current is None:
        raise FileNotFoundError(
            f"no finished training in {Folder(trainings).path}; run first: distributary finetune"
        )
    if (status := _status(current.run_id)) != "FINISHED":
        raise LookupError(
            f"{Folder(trainings).path}/{POINTER} names run {current.run_id}, which is {status} in MLflow, not "
            "FINISHED; run first: distributary finetune"
        )
    return current


def _status(run_id: str) -> str:
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return "unknown"
    return "deleted" if run.info.lifecycle_stage == LifecycleStage.DELETED else str(run.info.status)
