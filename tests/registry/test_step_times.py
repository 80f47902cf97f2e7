"""Where the time went, in the run of a real training; each test reads the store again."""

import csv
import io
import sys
import time

import mlflow
import pytest
from mlflow import MlflowClient

from pipelines.finetune.driver import Listeners, Watcher
from pipelines.finetune.times.parts import PARTS
from pipelines.finetune.worker import train_rank
from pipelines.registry.runs.step_times import log_step_times, log_system
from pipelines.registry.runs.tracker import Tracker
from pipelines.storage import Folder
from tests.finetune.conftest import root  # noqa: F401
from tests.finetune.data import make_training
from tests.finetune.ranks import alone


@pytest.fixture
def training(root):  # noqa: F811
    training = make_training(root, num_epochs=0.6, log_every_steps=2, evaluate_every_steps=6)
    train_rank(training, alone())
    return training


def test_a_run_has_a_picture_a_table_and_metrics(training, experiment):
    Folder(training.folder).write("timeline/1.zip", b"packed")
    with Tracker(experiment, "abc") as tracker:
        Watcher(training.folder, Listeners(tracker.log, str, str)).drain()
        log_step_times(tracker, training)
    client = MlflowClient()
    names = {each.path for each in client.list_artifacts(tracker.run_id, "pictures")}
    assert names == {"pictures/step_times.png"}
    table = mlflow.artifacts.load_text(f"runs:/{tracker.run_id}/step_times.csv")
    rows = [*csv.DictReader(io.StringIO(table))]
    assert [row["last_step"] for row in rows] == ["2", "4", "6", "6"]
    assert {row["host"] for row in rows} == {"127.0.0.1"}
    assert sum(float(row["checkpoint_seconds"]) for row in rows) > 0
    assert [each.path for each in client.list_artifacts(tracker.run_id, "timeline")] == ["timeline/1.zip"]
    found = client.get_run(tracker.run_id).data.metrics
    assert {f"time/{part}" for part in PARTS} < {*found}
    assert found["train/communication_share"] == 0
    assert found["rank_0/tokens_per_second"] > 0
    assert "train/mfu" not in found  # the peak of a CPU is not known


def test_a_training_of_an_earlier_version_has_no_picture(training, experiment):
    Folder(training.folder).delete("events")
    with Tracker(experiment, "abc") as tracker:
        log_step_times(tracker, training)
    assert MlflowClient().list_artifacts(tracker.run_id) == []


def test_the_driver_logs_what_its_machine_does(root, experiment, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    watched = make_training(root, system_metrics=True)
    logged = {}
    with Tracker(experiment, "abc") as tracker:
        with log_system(tracker, watched):
            for _ in range(150):
                time.sleep(0.2)
                logged = logged or MlflowClient().get_run(tracker.run_id).data.metrics
                if logged:
                    break
        with log_system(tracker, make_training(root)):
            pass
    assert 0 < logged["system/system_memory_usage_percentage"] <= 100


def test_a_driver_without_psutil_says_so(root, experiment, monkeypatch):  # noqa: F811
    for name in [*sys.modules]:
        if name.startswith("mlflow.system_metrics"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with (
        Tracker(experiment, "abc") as tracker,
        pytest.raises(ImportError, match=r"system_metrics=true needs psutil .*system_metrics=false"),
        log_system(tracker, make_training(root, system_metrics=True)),
    ):
        raise AssertionError("not reached")
