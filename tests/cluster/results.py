"""What a run of the small flow left, as one line of JSON: python -m tests.cluster.results ROOT TRACKING_URI.

Runs on a host of the cluster, without a JVM. Rows are read by Arrow and hashed here, so that two runs are
compared by their rows, not only by the digests that Distributary recorded.
"""

import hashlib
import json
import sys

import mlflow
from deltalake import DeltaTable
from mlflow import MlflowClient

from pipelines.pin import pin
from pipelines.storage import Folder
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES

TABLES = (DOCUMENTS, QUARANTINE, SEQUENCES, PREDICTIONS)


def read_tables(root: str) -> dict[str, dict[str, object]]:
    """Table -> recorded digest, hash of its rows (not of volatile columns), number of rows and of keys."""
    found = {}
    for table in TABLES:
        path = f"{root}/lake/{table.name}"
        newest = pin(path)
        assert newest is not None, path
        rows = DeltaTable(path).to_pyarrow_table()
        columns = sorted(set(rows.column_names) - set(table.volatile))
        texts = sorted(json.dumps(row, sort_keys=True, default=repr) for row in rows.select(columns).to_pylist())
        keys = {json.dumps(row, sort_keys=True, default=repr) for row in rows.select(list(table.key)).to_pylist()}
        found[table.name] = {
            "digest": newest.digest,
            "rows": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
            "num_rows": rows.num_rows,
            "num_keys": len(keys),
        }
    return found


def read_weights(root: str) -> list[str]:
    """sha256 of the weights of every finished training below root."""
    runs = Folder(f"{root}/lake/finetune")
    found = []
    for name in runs.names():
        run = runs / name
        if run.exists("result.json"):
            weights = hashlib.sha256(run.read("model/model.safetensors")).hexdigest()
            assert weights == json.loads(run.read("result.json"))["weights"]
            found.append(weights)
    return found


def read_store(uri: str, name: str) -> dict[str, object]:
    """Runs of the experiment, points of the loss, and model versions; a step logged twice is counted twice."""
    mlflow.set_tracking_uri(uri)
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None, name
    runs = client.search_runs([experiment.experiment_id])
    loss = [sorted(point.step for point in client.get_metric_history(run.info.run_id, "train/loss")) for run in runs]
    versions = client.search_model_versions(f"name='{name}'")
    return {
        "runs": sorted(run.info.status for run in runs),
        "loss_steps": loss,
        "num_versions": len(versions),
        "champion": client.get_model_version_by_alias(name, "champion").version,
    }


def read_results(root: str, uri: str, name: str) -> dict[str, object]:
    return {"tables": read_tables(root), "weights": read_weights(root), "store": read_store(uri, name)}


if __name__ == "__main__":
    root, uri = sys.argv[1:]
    print(json.dumps(read_results(root, uri, root.rpartition("/")[2])))
