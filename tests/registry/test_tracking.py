"""Tracking: every claim is checked by reading the store back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.exceptions import MlflowException

from pipelines.pin import Pin
from pipelines.registry import store
from pipelines.registry.runs.lineage import lineage
from pipelines.registry.runs.tracker import MAX_PARAM_CHARS, Tracker, find_run

ROOT = Path(__file__).parents[2]


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


def points(run_id, key):
    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run_id, key)]


def read(run_id, path):
    return mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")


def test_a_resumed_training_has_every_point_exactly_once(experiment):
    first = Tracker(experiment, "abc")
    for step in range(1, 6):
        first.log(step, {"loss": 1 / step, "rate": 0.1})
    first.flush()
    second = Tracker(experiment, "abc")  # the first is gone without a word, as after a kill
    for step in range(3, 8):
        second.log(step, {"loss": 1 / step, "rate": 0.1})
    second.finish({"accuracy": 0.5})
    assert second.run_id == first.run_id
    assert points(first.run_id, "loss") == [(step, 1 / step) for step in range(1, 8)]
    assert points(first.run_id, "rate") == [(step, 0.1) for step in range(1, 8)]
    assert points(first.run_id, "accuracy") == [(7, 0.5)]
    assert find_run(experiment, "abc").info.status == "FINISHED"


def test_points_that_were_not_flushed_before_a_kill_come_with_the_replay(experiment):
    Tracker(experiment, "abc").log(1, {"loss": 1.0})
    replayed = Tracker(experiment, "abc")
    replayed.log(1, {"loss": 1.0})
    replayed.finish()
    assert points(replayed.run_id, "loss") == [(1, 1.0)]


def test_a_finished_run_is_not_touched_again(experiment):
    first = Tracker(experiment, "abc")
    first.finish()
    second = Tracker(experiment, "abc")
    assert second.run_id != first.run_id
    assert find_run(experiment, "abc").info.run_id == second.run_id


def test_runs_of_other_fingerprints_and_experiments_are_not_found(experiment):
    Tracker(experiment, "abc")
    assert find_run(experiment, "abd") is None
    assert find_run("no such experiment", "abc") is None
    with pytest.raises(ValueError, match="letters and digits, got 'x' OR 1'"):
        find_run(experiment, "x' OR 1")


def test_an_error_is_kept_and_goes_when_the_run_ends_well(experiment):
    def crash():
        with Tracker(experiment, "abc"):
            raise RuntimeError("disk full at step 3")

    with pytest.raises(RuntimeError):
        crash()
    failed = find_run(experiment, "abc")
    assert (failed.info.status, failed.data.tags["distributary.error"]) == (
        "FAILED",
        "RuntimeError: disk full at step 3",
    )
    with Tracker(experiment, "abc"):
        pass
    ended = find_run(experiment, "abc")
    assert ended.info.run_id == failed.info.run_id
    assert ended.info.status == "FINISHED"
    assert "distributary.error" not in ended.data.tags


def test_a_store_that_is_down_does_not_hide_why_the_training_failed(experiment, monkeypatch, caplog):
    def refuse(*_, **__):
        raise MlflowException("connection refused")

    def crash():
        with Tracker(experiment, "abc"):
            monkeypatch.setattr(mlflow.MlflowClient, "set_tag", refuse)
            raise RuntimeError("disk full at step 3")

    with pytest.raises(RuntimeError, match="disk full at step 3"):
        crash()
    assert "its error could not be recorded (connection refused)" in caplog.text


def test_an_interrupt_leaves_a_killed_run(experiment):
    def interrupt():
        with Tracker(experiment, "abc"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert find_run(experiment, "abc").info.status == "KILLED"


def test_params_are_flattened_cut_with_a_note_and_survive_a_change_on_resume(experiment, caplog):
    first = Tracker(experiment, "abc")
    first.log_params(
        {"optimizer": {"rate": 0.1, "betas": [0.9, 0.95]}, "prompt": "字" * 7000, "none": None, "empty": {}}
    )
    second = Tracker(experiment, "abc")
    second.log_params({"optimizer": {"rate": 0.1}, "world_size": 2, "none": "changed"})
    params = mlflow.get_run(first.run_id).data.params
    assert {
        name: params[name] for name in ("optimizer.rate", "optimizer.betas", "none", "empty", "world_size")
    } == {
        "optimizer.rate": "0.1",
        "optimizer.betas": "[0.9, 0.95]",
        "none": "None",
        "empty": "{}",
        "world_size": "2",
    }
    assert len(params["prompt"]) == MAX_PARAM_CHARS
    assert params["prompt"].endswith("字... (7,000 characters, whole in config.yaml)")
    assert mlflow.get_run(first.run_id).data.tags["distributary.resumed.none"] == "changed"
    assert "none was 'None', continues with 'changed'" in caplog.text


def test_more_params_than_one_call_takes(experiment):
    tracker = Tracker(experiment, "abc")
    tracker.log_params({f"p{i}": i for i in range(230)})
    assert len(mlflow.get_run(tracker.run_id).data.params) == 230


def test_more_points_than_one_call_takes(experiment):
    tracker = Tracker(experiment, "abc")
    for step in range(2500):
        tracker.log(step, {"loss": 1.0})
    tracker.finish()
    assert len(points(tracker.run_id, "loss")) == 2500


@pytest.mark.parametrize("version", [0, 3])
def test_an_input_keeps_version_and_digest_where_mlflow_reads_them(experiment, version):
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
    assert lineage(tracker.run_id)["inputs"] == [expected]
    assert json.loads(read(tracker.run_id, "lineage.json"))["inputs"] == [expected]


def test_inputs_logged_again_on_resume_are_not_doubled(experiment):
    for _ in range(2):
        tracker = Tracker(experiment, "abc")
        tracker.log_inputs([pin(version=0), pin(version=1, digest="f" * 32)])
    assert [entry["version"] for entry in lineage(tracker.run_id)["inputs"]] == [0, 1]


def test_equal_rows_at_a_later_version_are_pinned_at_that_version(experiment):
    # MLflow itself keeps the first version for both runs.
    runs = [Tracker(experiment, fingerprint) for fingerprint in ("abc", "abd")]
    for version, tracker in enumerate(runs):
        tracker.log_inputs([pin(version=version)])
    assert [lineage(tracker.run_id)["inputs"][0]["version"] for tracker in runs] == [0, 1]


def test_rows_without_our_digest_cannot_be_pinned(experiment):
    with pytest.raises(ValueError, match=r"sequences version 4 .* outside of Distributary.*run the stage"):
        Tracker(experiment, "abc").log_inputs([pin(version=4, digest="")])


def test_pictures_and_texts_of_a_run(experiment, caplog):
    tracker = Tracker(experiment, "abc")
    tracker.log_config("seed: 1\n")
    tracker.log_environment()
    tracker.log(1, {"train_loss": 2.0, "learning_rate": 0.1})
    tracker.log_loss_curve(
        train="train_loss", evaluation="validation_loss", learning_rate="learning_rate", title="t"
    )
    tracker.log_confusion(np.eye(2, dtype=int), ["退款", "\U0010fffe"], title="t")
    client = mlflow.MlflowClient()
    artifacts = {
        item.path for folder in (None, "pictures") for item in client.list_artifacts(tracker.run_id, folder)
    }
    assert {
        "config.yaml",
        "environment.json",
        "requirements.txt",
        "pictures/loss.png",
        "pictures/confusion.png",
        "pictures/confusion.txt",
    } <= artifacts
    assert "mlflow==" in read(tracker.run_id, "requirements.txt")
    assert (
        json.loads(read(tracker.run_id, "environment.json"))["driver"]["packages"]["mlflow"]
        == mlflow.__version__
    )
    assert "退款" in read(tracker.run_id, "pictures/confusion.txt")
    assert "no installed font draws all 2 class names" in caplog.text


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "/data/mlruns"])
def test_a_retired_file_store_is_refused_with_the_remedy(uri):
    with pytest.raises(ValueError, match=f"tracking_uri '{uri}' is a folder.*sqlite:///FOLDER/mlflow.db"):
        store.connect(uri)


def test_a_deleted_experiment_is_an_error_with_the_remedy(experiment):
    identity = store.experiment_id(experiment)
    mlflow.MlflowClient().delete_experiment(identity)
    with pytest.raises(
        ValueError, match=f"is deleted; run: mlflow experiments restore --experiment-id {identity}"
    ):
        Tracker(experiment, "abc")


def test_a_fresh_store_is_silent_and_leaves_everything_beside_it(tmp_path):
    script = (
        "from pipelines.registry import store; from pipelines.registry.runs.tracker import Tracker\n"
        "store.connect('sqlite:///my store/mlflow.db')\n"
        "t = Tracker('e', 'abc'); t.log_config('a: 1'); t.finish({'m': 1.0})"
    )
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "my store"]
    assert sorted(path.name for path in (tmp_path / "my store").iterdir()) == ["artifacts", "mlflow.db"]


def test_artifacts_go_where_the_configuration_says(tmp_path, store_folder):
    store.connect(f"sqlite:///{store_folder}/mlflow.db", str(tmp_path / "files"))
    Tracker("with its own root", "abc").log_config("a: 1")
    assert [path.name for path in (tmp_path / "files").rglob("config.yaml")] == ["config.yaml"]
    store.connect(f"sqlite:///{store_folder}/mlflow.db")
