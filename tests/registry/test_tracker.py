"""The run of a training: continued after a crash, every point once. Each test reads the store again."""

import json

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipelines.lease import LeaseLostError
from pipelines.registry.runs.params import MAX_PARAM_CHARS
from pipelines.registry.runs.tracker import ERROR_TAG, Tracker, find_run


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
