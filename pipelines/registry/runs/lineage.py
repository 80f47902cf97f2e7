"""The rows that a run was trained on: table versions by path, version and digest, kept in the run itself.

Three properties of MLflow need care. Its Delta source omits version 0 from its record, so a run on the first
version of a table would later point at the newest one. Its digest of a Spark dataset hashes the query plan,
not the rows. And it keeps one record per name and digest in an experiment: a table that was written again
with equal rows would show the path and version of the first time. So the pin is also written to the tags of
the input, which belong to the run.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, ViewType

if TYPE_CHECKING:
    from pipelines.pin import Pin

SOURCE_TYPE = "delta_table"
"""MLflow's DeltaDatasetSource reads such a record and loads the table at the pinned version."""
CONTEXT_TAG, PIN_TAG = "mlflow.data.context", "distributary.pin."
MEMBER_TAG, BUNDLE_TAG = "distributary.adapter.", "distributary.bundle."
"""Tags of the run of a bundle, with the name of an adapter behind, and of the run of an adapter, with the run
of a bundle behind, whose name and version are the value. Values are JSON."""
MAX_PATH_CHARS = 500


def record_input(pin: "Pin", context: str) -> DatasetInput:
    """MLflow's record of one pinned input.

    Raises ValueError if the rows have no digest, because Distributary did not write them, and for a path that
    is too long.
    """
    if not pin.digest:
        raise ValueError(
            f"{pin.table} version {pin.version} at {pin.path} was last changed outside of Distributary, "
            "so its rows have no digest; run the stage that writes it again"
        )
    if len(pin.path) > MAX_PATH_CHARS:
        raise ValueError(
            f"{pin.table}: MLflow keeps at most {MAX_PATH_CHARS} characters of a path, got {len(pin.path)}; "
            "choose a shorter one"
        )
    source = {"path": pin.path, "delta_table_version": pin.version, "delta_table_id": pin.table_id}
    values = {"path": pin.path, "version": pin.version, "table_id": pin.table_id, "num_rows": pin.num_rows}
    tags = [
        InputTag(CONTEXT_TAG, context),
        *(InputTag(PIN_TAG + name, str(value)) for name, value in values.items()),
    ]
    return DatasetInput(Dataset(pin.table, pin.digest, SOURCE_TYPE, json.dumps(source)), tags)


def read_lineage(run_id: str) -> dict[str, Any]:
    """The run, the rows that it read, and the model versions that contain its model; plain types. Of the run
    of a bundle also the versions and runs of its adapters, and of their runs the bundles."""
    client = MlflowClient()
    run = client.get_run(run_id)
    datasets = run.inputs.dataset_inputs if run.inputs else []
    versions = [
        (found.name, int(found.version)) for found in client.search_model_versions(f"run_id = '{run_id}'")
    ]
    lineage: dict[str, Any] = {
        "run_id": run_id,
        "fingerprint": run.data.tags.get("distributary.fingerprint"),
        "inputs": [_read_pin(entry) for entry in datasets if _has_pin(entry)],
        "model_versions": [{"name": name, "version": version} for name, version in sorted(versions)],
    }
    tags = sorted(run.data.tags.items())
    if members := {key.removeprefix(MEMBER_TAG): value for key, value in tags if key.startswith(MEMBER_TAG)}:
        lineage["adapters"] = {name: json.loads(value) for name, value in members.items()}
    if bundles := [json.loads(value) for key, value in tags if key.startswith(BUNDLE_TAG)]:
        lineage["bundles"] = sorted(bundles, key=lambda bundle: (bundle["name"], bundle["version"]))
    return lineage


def list_inputs() -> Iterator[dict[str, Any]]:
    """The rows that every run of the store has read, as `read_lineage` gives them, with `run_id`.

    Deleted runs too: they can be restored until `mlflow gc` removes them.
    """
    client = MlflowClient()
    for experiment in _turn_pages(partial(client.search_experiments, view_type=ViewType.ALL)):
        search = partial(client.search_runs, [experiment.experiment_id], run_view_type=ViewType.ALL)
        for run in _turn_pages(search):
            for entry in run.inputs.dataset_inputs if run.inputs else ():
                if _has_pin(entry):
                    yield {"run_id": run.info.run_id, **_read_pin(entry)}


def _turn_pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def write_lineage(run_id: str) -> None:
    """Write the present lineage to lineage.json in the run, for people and for tools that do not know
    MLflow."""
    MlflowClient().log_dict(run_id, read_lineage(run_id), "lineage.json")


def _has_pin(entry: DatasetInput) -> bool:
    return any(tag.key.startswith(PIN_TAG) for tag in entry.tags)


def _read_pin(entry: DatasetInput) -> dict[str, Any]:
    tags = {tag.key: tag.value for tag in entry.tags}
    return {
        "table": entry.dataset.name,
        "path": tags[PIN_TAG + "path"],
        "version": int(tags[PIN_TAG + "version"]),
        "table_id": tags[PIN_TAG + "table_id"],
        "digest": entry.dataset.digest,
        "num_rows": int(tags[PIN_TAG + "num_rows"]),
        "context": tags[CONTEXT_TAG],
    }
