"""Finished trainings of an experiment, and where their model folders are."""

from typing import NamedTuple

from pipelines.registry import store

# isort: split
from mlflow import MlflowClient

FOLDER_TAG = "distributary.folder"
"""Tag of a run: its folder with checkpoints, model and result."""


class FinishedRun(NamedTuple):
    run_id: str
    folder: str


def newest_finished(experiment: str) -> FinishedRun:
    """The training that finished last.

    Raises FileNotFoundError if there is none.
    """
    found = store.find_experiment(experiment)
    runs = [] if found is None else MlflowClient().search_runs(
        [found.experiment_id], f"attributes.status = 'FINISHED' and tags.`{FOLDER_TAG}` != ''", max_results=1,
        order_by=["attributes.end_time DESC"])
    if not runs:
        raise FileNotFoundError(f"no finished training in experiment {experiment}; run first: distributary finetune")
    return FinishedRun(str(runs[0].info.run_id), runs[0].data.tags[FOLDER_TAG])
