"""Tracking: every test reads the store again and checks what it finds."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.exceptions import MlflowException

from pipelines.lease import LeaseLostError
from pipelines.pin import Pin
from pipelines.registry import store
from pipelines.registry.runs.current import FOLDER_TAG
from pipelines.registry.runs.lineage import read_lineage
from pipelines.registry.runs.params import MAX_PARAM_CHARS
from pipelines.registry.runs.tracker import ERROR_TAG, Tracker, find_run, open_run

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
    second = Tracker(experiment, "abc")  # the first one ended without a call, as after a kill
    for step in range(3, 8):
        second.log(step, {"loss": 1 / step, "rate": 0.1})
    second.finish({"accuracy": 0.5})
    assert second.run_id == first.run_id
    assert points(first.run_id, "loss") == [(step, 1 / step) for step in range(1, 8)]
    assert points(first.run_id, "rate") == [(step, 0.1) for step in range(1, 8)]
    assert points(first.run_id, "accuracy") == [(7, 0.5)]
    assert find_run(experiment, "abc").info.status == "FINISHED"


def test_points_lost_by_a_kill_come_with_the_replay(experiment):
    Tracker(experiment, "abc").log(1, {"loss": 1.0})
    replayed = Tracker(experiment, "abc")
    replayed.log(1, {"loss": 1.0})
    replayed.finish()
    assert points(replayed.run_id, "loss") == [(1, 1.0)]


def test_a_finished_run_is_not_continued(experiment):
    first = Tracker(experiment, "abc")
    first.finish()
    second = Tracker(experiment, "abc")
    assert second.run_id != first.run_id
    assert find_run(experiment, "abc").info.run_id == second.run_id


def test_runs_of_other_fingerprints_and_experiments_are_not_found(experiment):
    Tracker(experiment, "abc")
    assert find_run(experiment, "abd") is None
    assert find_run("no such experiment", "abc") is None
    with pytest.raises(ValueError, match="only letters and digits, got 'x' OR 1'"):
        find_run(experiment, "x' OR 1")


def test_an_error_is_removed_when_the_run_finishes(experiment):
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


def test_a_store_fault_does_not_hide_the_training_error(experiment, monkeypatch, caplog):
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


def test_params_are_flattened_cut_and_may_change(experiment, caplog):
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
    assert "none was 'None', now it is 'changed'" in caplog.text


def test_more_params_than_one_request_allows(experiment):
    tracker = Tracker(experiment, "abc")
    tracker.log_params({f"p{i}": i for i in range(230)})
    assert len(mlflow.get_run(tracker.run_id).data.params) == 230


def test_more_points_than_one_request_allows(experiment):
    tracker = Tracker(experiment, "abc")
    for step in range(2500):
        tracker.log(step, {"loss": 1.0})
    tracker.finish()
    assert len(points(tracker.run_id, "loss")) == 2500


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


def test_charts_and_texts_of_a_run(experiment, caplog):
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
    assert "no installed font has all characters of the 2 class names" in caplog.text


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "/data/mlruns"])
def test_a_folder_as_store_is_refused(uri):
    with pytest.raises(ValueError, match=f"tracking_uri '{uri}' is a folder.*sqlite:///FOLDER/mlflow.db"):
        store.connect(uri)


def test_a_deleted_experiment_is_refused(experiment):
    identity = store.ensure_experiment(experiment)
    mlflow.MlflowClient().delete_experiment(identity)
    with pytest.raises(
        ValueError, match=f"is deleted; run: mlflow experiments restore --experiment-id {identity}"
    ):
        Tracker(experiment, "abc")


def test_a_new_store_prints_nothing_and_stays_in_its_folder(tmp_path):
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


def test_artifacts_go_to_the_configured_folder(tmp_path, store_folder):
    store.connect(f"sqlite:///{store_folder}/mlflow.db", str(tmp_path / "files"))
    Tracker("with its own root", "abc").log_config("a: 1")
    assert [path.name for path in (tmp_path / "files").rglob("config.yaml")] == ["config.yaml"]
    store.connect(f"sqlite:///{store_folder}/mlflow.db")


def test_reading_the_store_loads_no_heavy_package(tmp_path):
    script = (
        "import sys\n"
        "from pipelines.registry import store; from pipelines.registry.gate import apply\n"
        "from pipelines.registry.runs import current, tracker\n"
        "from pipelines.registry.versions import resolve\n"
        "heavy = ['matplotlib', 'torch', 'transformers', 'mlflow.pyfunc', 'sklearn']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_driver_that_lost_its_lease_leaves_the_run_alone(experiment):
    def lose_lease():
        with Tracker(experiment, "abc") as tracker:
            tracker.log(1, {"train/loss": 1.0})
            tracker.flush()
            tracker.log(2, {"train/loss": 0.5})
            raise LeaseLostError("taken over")

    with pytest.raises(LeaseLostError):
        lose_lease()
    run = find_run(experiment, "abc")
    assert (run.info.status, ERROR_TAG in run.data.tags) == ("RUNNING", False)
    points = MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == [1]


def test_an_older_schema_names_the_command_to_run(tmp_path):
    """A real store, whose last migration is undone in the record of its schema."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    uri = f"sqlite:///{tmp_path}/old.db"
    store.connect(uri)
    script = ScriptDirectory.from_config(_get_alembic_config(uri))
    before = script.get_revision(script.get_current_head()).down_revision
    with closing(sqlite3.connect(tmp_path / "old.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (before,))
    opening = f"from pipelines.registry.store import connect; connect({uri!r})"
    done = subprocess.run(
        [sys.executable, "-c", opening],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"RuntimeError: {uri}: out-of-date database schema")
    assert said.endswith(f"run: mlflow db upgrade {uri}")


def test_several_drivers_create_one_store_together(tmp_path):
    opening = f"from pipelines.registry.store import connect; connect('sqlite:///{tmp_path}/new.db')"
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", opening],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]
    said = [driver.communicate(timeout=240)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0, 0], said
