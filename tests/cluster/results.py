"""What a run of the small flow left, as one line of JSON:

    python -m tests.cluster.results ROOT ROOT_OF_TABLES TRACKING_URI NAME

Runs on a host of the cluster, without a JVM. Rows are read by delta-rs and hashed here, so that two runs are
compared by their rows, and not only by the digests that Distributary recorded.
"""

import hashlib
import json
import sys
from collections import Counter

from deltalake import DeltaTable
from mlflow import MlflowClient

from pipelines import stores
from pipelines.pin import pin
from pipelines.storage import Folder
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES, Table


def read_table(table: Table, root: str) -> dict[str, object]:
    """Recorded digest, hash of the rows without volatile columns, schema, counts of rows, keys and splits."""
    path = f"{root}/lake/{table.name}"
    newest = pin(path)
    assert newest is not None, path
    source = DeltaTable(path, storage_options=stores.delta_options(path))
    rows = source.to_pyarrow_table()
    steady = sorted({*rows.column_names} - {*table.volatile, "model_name"})  # each run has its own
    lines, keys = (
        [json.dumps(row, sort_keys=True, default=repr) for row in rows.select(columns).to_pylist()]
        for columns in (steady, list(table.key))
    )
    splits = Counter(row["split"] for row in rows.to_pylist()) if "split" in rows.column_names else {}
    return {
        "splits": dict(splits),
        "digest": newest.digest,
        "rows": hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(),
        "num_rows": len(lines),
        "schema": json.loads(source.schema().to_json()),
        "num_keys": len(set(keys)),
    }


def read_weights(root: str) -> list[str]:
    """sha256 of the weights of every finished training below root."""
    runs, found = Folder(f"{root}/lake/finetune"), []
    for name in runs.names():
        run = runs / name
        if run.exists("result.json"):
            found.append(hashlib.sha256(run.read("model/model.safetensors")).hexdigest())
    return found


def read_store(uri: str, name: str) -> dict[str, object]:
    """The runs of an experiment, the steps of their losses, and the model versions."""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None, name
    runs = client.search_runs([experiment.experiment_id])
    steps = [
        sorted(point.step for point in client.get_metric_history(run.info.run_id, "train/loss"))
        for run in runs
    ]
    return {
        "runs": sorted(run.info.status for run in runs),
        "steps": steps,
        "num_versions": len(client.search_model_versions(f"name='{name}'")),
        "champion": int(client.get_model_version_by_alias(name, "champion").version),
    }


def read_results(root: str, tables: str, uri: str, name: str) -> dict[str, object]:
    """What the run left that must not depend on where and how often disturbed it ran."""
    read = {table.name: read_table(table, tables) for table in (DOCUMENTS, QUARANTINE, SEQUENCES)}
    read[PREDICTIONS.name] = read_table(PREDICTIONS, root)
    return {"tables": read, "weights": read_weights(root), "store": read_store(uri, name)}


if __name__ == "__main__":
    stores.configure(stores.Stores())  # endpoint and keys come from the environment
    print(json.dumps(read_results(*sys.argv[1:])))
