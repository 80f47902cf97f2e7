"""What a run was made from: the table versions that it read, its settings, its environment."""

import json

import mlflow
import pytest
from mlflow.data.delta_dataset_source import DeltaDatasetSource

from pipelines.pin import Pin
from pipelines.registry.runs.current import FOLDER_TAG
from pipelines.registry.runs.lineage import read_lineage
from pipelines.registry.runs.tracker import Tracker, find_run, open_run


def pin(*, version=0, digest="0123456789abcdef0123456789abcdef"):
    return Pin(
        table="sequences",
        path="/data/sequences",
        table_id="t-1",
        version=version,
        digest=digest,
        num_rows=7,
        fingerprint="f",
        facts={},
    )


def read(run_id, path):
    return mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")


@pytest.mark.parametrize("version", [0, 3])
def test_mlflow_reads_version_and_digest_of_an_input(experiment, version):
    tracker = Tracker(experiment, "abc")
    tracker.log_inputs([pin(version=version)], context="training")
    recorded = mlflow.get_run(tracker.run_id).inputs.dataset_inputs[0].dataset
    source = mlflow.data.get_source(recorded)
    assert isinstance(source, DeltaDatasetSource)
    assert (source.path, source.delta_table_version, recorded.digest) == (
        "/data/sequences",
        version,
        pin().digest,
    )
    expected = {
        "table": "sequences",
        "path": "/data/sequences",
        "version": version,
        "table_id": "t-1",
        "digest": pin().digest,
        "num_rows": 7,
        "context": "training",
    }
    assert read_lineage(tracker.run_id)["inputs"] == [expected]
    assert json.loads(read(tracker.run_id, "lineage.json"))["inputs"] == [expected]


def test_inputs_logged_again_on_resume_are_not_doubled(experiment):
    for _ in range(2):
        tracker = Tracker(experiment, "abc")
        tracker.log_inputs([pin(version=0), pin(version=1, digest="f" * 32)])
    assert [entry["version"] for entry in read_lineage(tracker.run_id)["inputs"]] == [0, 1]


def test_equal_rows_keep_their_own_version(experiment):
    # MLflow itself keeps the first version for both runs.
    runs = [Tracker(experiment, fingerprint) for fingerprint in ("abc", "abd")]
    for version, tracker in enumerate(runs):
        tracker.log_inputs([pin(version=version)])
    assert [read_lineage(tracker.run_id)["inputs"][0]["version"] for tracker in runs] == [0, 1]


def test_rows_without_our_digest_cannot_be_pinned(experiment):
    with pytest.raises(ValueError, match=r"sequences version 4 .* outside of Distributary.*run the stage"):
        Tracker(experiment, "abc").log_inputs([pin(version=4, digest="")])


def test_open_run_records_what_the_training_is_made_from(experiment):
    settings = {"seed": 1, "optimizer": {"rate": 0.1}}
    with open_run(
        experiment, "abc", folder="/runs/abc", params=settings, config="seed: 1\n", inputs=[pin()]
    ) as tracker:
        assert find_run(experiment, "abc").info.status == "RUNNING"
    run = mlflow.get_run(tracker.run_id)
    assert (run.info.status, run.data.tags[FOLDER_TAG]) == ("FINISHED", "/runs/abc")
    assert run.data.params == {"seed": "1", "optimizer.rate": "0.1"}
    assert read(tracker.run_id, "config.yaml") == "seed: 1\n"
    assert json.loads(read(tracker.run_id, "environment.json"))["driver"]["python"]
    assert [entry["table"] for entry in read_lineage(tracker.run_id)["inputs"]] == ["sequences"]


def test_open_run_fails_the_run_whose_inputs_are_wrong(experiment):
    with (
        pytest.raises(ValueError, match="outside of Distributary"),
        open_run(experiment, "abc", folder="/f", params={}, config="", inputs=[pin(digest="")]),
    ):
        pass
    failed = find_run(experiment, "abc")
    assert failed.info.status == "FAILED"
    assert "outside of Distributary" in failed.data.tags["distributary.error"]
