"""The current run of a folder of trainings. The finetune stage writes its id into a file there.

The newest run of an experiment is no substitute: it may have another configuration, or belong to a colleague.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

from pipelines.storage import Folder

FOLDER_TAG = "distributary.folder"
"""Tag of a run: its folder with checkpoints, model and result."""
POINTER = "current.json"


class CurrentRun(NamedTuple):
    """A finished training."""

    run_id: str
    fingerprint: str
    """Of everything the training was made from."""
    folder: str
    """Its folder with model and result."""


def write_current(trainings: str, run: CurrentRun) -> None:
    """Make `run` the current one of the folder of trainings."""
    Folder(trainings).write(POINTER, json.dumps(run._asdict()).encode())


def read_current(trainings: str) -> CurrentRun | None:
    """The run that the file names, without asking MLflow; None if there is no file."""
    folder = Folder(trainings)
    return CurrentRun(**json.loads(folder.read(POINTER))) if folder.exists(POINTER) else None


def require_current(trainings: str, read_run_status: Callable[[str], str]) -> CurrentRun:
    """The current run of the folder of trainings, which the store knows as finished.

    `read_run_status` asks the store for the status of a run id (`Lookup.read_run_status`). Raises
    FileNotFoundError if no training has finished there, LookupError if the store does not have the run or it
    has another status.
    """
    current = read_current(trainings)
    if current is None:
        raise FileNotFoundError(
            f"no finished training in {Folder(trainings).path}; run first: distributary finetune"
        )
    status = read_run_status(current.run_id)
    if status != "FINISHED":
        raise LookupError(
            f"{Folder(trainings).path}/{POINTER} names run {current.run_id}, which is {status} in MLflow, "
            "not FINISHED; run first: distributary finetune"
        )
    return current
