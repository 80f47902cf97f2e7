"""Which rows made this model: the table versions a run read, by path, version and digest, kept in the run itself.

Three traps of MLflow are stepped around. Its Delta source leaves version 0 out of its record, so a run on the first version of a
table would later point at the newest one. Its digest of a Spark dataset hashes the query plan, not the rows. And it keeps one
record for equal name and digest in an experiment: a table written again with equal rows would show the path and version of the
first time, so the pin also stands in the tags of the input, which belong to the run.
"""

import json
from typing import TYPE_CHECKING, Any

from pipelines.registry import store  # noqa: F401  (before mlflow: switches its noise off)

# isort: split
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

if TYPE_CHECKING:
    from pipelines.pin import Pin

SOURCE_TYPE = "delta_table"
"""MLflow's DeltaDatasetSource reads this record back and loads the table at the pinned version."""
CONTEXT_TAG, PIN_TAG = "mlflow.data.context", "distributary.pin."
MAX_PATH_CHARS = 500


def dataset_input(pin: "Pin", context: str) -> DatasetInput:
    """MLflow's record of one pinned input. Raises ValueError for rows that Distributary did not write: they have no digest."""
    if not pin.digest:
        raise ValueError(
            f"{pin.table} version {pin.version} at {pin.path} was last changed outside of Distributary, so its rows "
            "have no digest; run the stage that writes it again"
        )
    if len(pin.path) > MAX_PATH_CHARS:
        raise ValueError(
            f"{pin.table}: MLflow keeps at most {MAX_PATH_CHARS} characters of a path, got {len(pin.path)}; "
            "choose a shorter one"
        )
    source = {"path": pin.path, "delta_table_version": pin.version, "delta_table_id": pin.table_id}
    ours = {"path": pin.path, "version": pin.version, "table_id": pin.table_id, "num_rows": pin.num_rows}
    tags = [
        InputTag(CONTEXT_TAG, context),
        *(InputTag(PIN_TAG + name, str(value)) for name, value in ours.items()),
    ]
    return DatasetInput(Dataset(pin.table, pin.digest, SOURCE_TYPE, json.dumps(source)), tags)


def lineage(run_id: str) -> dict[str, Any]:
    """The run, the rows it read and the model versions that hold its model; plain types."""
    client = MlflowClient()
    run = client.get_run(run_id)
    versions = [
        (found.name, int(found.version)) for found in client.search_model_versions(f"run_id = '{run_id}'")
    ]
    return {
        "run_id": run_id,
        "fingerprint": run.data.tags.get("distributary.fingerprint"),
        "inputs": [
            _pinned(entry) for entry in (run.inputs.dataset_inputs if run.inputs else []) if _is_ours(entry)
        ],
        "model_versions": [{"name": name, "version": version} for name, version in sorted(versions)],
    }


def write_lineage(run_id: str) -> None:
    """Write lineage.json into the run as it is now, for people and for tools that do not know MLflow."""
    MlflowClient().log_dict(run_id, lineage(run_id), "lineage.json")


def _is_ours(entry: DatasetInput) -> bool:
    return any(tag.key.startswith(PIN_TAG) for tag in entry.tags)


def _pinned(entry: DatasetInput) -> dict[str, Any]:
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
