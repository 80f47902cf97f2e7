"""Horovod's timeline and the times of two real ranks, in one training."""

import io
import json
import zipfile

import pytest

from pipelines.finetune.launch import timeline
from pipelines.finetune.launch.timeline import list_timelines, record_timeline
from pipelines.finetune.times.parts import make_metrics, read_reports
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune.data import make_training
from tests.finetune.ranks import RankDiedError, alone, run_processes


def train(world, training, fails):
    if not fails:
        return train_rank(training, world)["total_steps"]
    with record_timeline(training, world):
        import horovod.torch as hvd
        import torch

        hvd.allreduce(torch.ones(3), op=hvd.Sum, name="before the error")
        raise ValueError("a rank fails")


def read_timeline(training, name):
    with zipfile.ZipFile(io.BytesIO(Folder(training.folder).read(name))) as archive:
        return json.loads(archive.read("timeline.json"))


@pytest.mark.slow
@pytest.mark.horovod
def test_two_ranks_record_what_they_wait_for(root):
    training = make_training(
        root, timeline=True, num_epochs=1.0, log_every_steps=5, peak_tflops=0.01, system_metrics=True
    )
    steps = run_processes(train, training, False, num_ranks=2, variables=timeline.VARIABLES)
    assert steps == [10, 10]
    (name,) = list_timelines(training.folder)
    events = read_timeline(training, name)
    tensors = {each["args"]["name"] for each in events if each.get("name") == "process_name" and each["pid"]}
    assert "allreduce.gradients.0" in tensors
    assert {"NEGOTIATE_ALLREDUCE", "GLOO_ALLREDUCE"} <= {each.get("name") for each in events}

    reports = read_reports(training.folder)
    assert [(each["step"], each.get("split")) for each in reports] == [(5, None), (10, None), (10, "end")]
    assert reports[0]["hosts"] == ["127.0.0.1"] * 2
    assert all(seconds > 0 for seconds in reports[0]["seconds"]["communication"])
    metrics = make_metrics(reports[0])
    assert 0 < metrics["train/communication_share"] < 1
    assert metrics["train/mfu"] > 0
    assert sum(reports[0]["num_tokens"]) > max(reports[0]["num_tokens"])
    assert "system/127.0.0.1/cpu_utilization_percentage" in metrics


@pytest.mark.slow
@pytest.mark.horovod
def test_a_training_that_fails_keeps_its_timeline(root):
    training = make_training(root, timeline=True)
    with pytest.raises(RankDiedError, match="a rank fails"):
        run_processes(train, training, True, num_ranks=2, variables=timeline.VARIABLES)
    (name,) = list_timelines(training.folder)
    assert "allreduce.before the error" in str(read_timeline(training, name))


def test_one_rank_has_no_timeline(root):
    training = make_training(root, timeline=True)
    with record_timeline(training, alone()):
        pass
    assert list_timelines(training.folder) == []
