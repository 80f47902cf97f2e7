"""The queue with real trainings: its scheduler is killed, one training makes room for another and goes on,
and its weights are those of a training that nothing disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from mlflow import MlflowClient

from jobs import finetune
from jobs.shell import settings as configuration
from pipelines.finetune.queue.table import QueueTable
from pipelines.finetune.results import read_result
from pipelines.machine import cache_folder
from pipelines.registry.store import connect, find_experiment
from tests.conftest import flow_overrides
from tests.processes import CHECKOUT

# Soak: the training must last longer than a scheduler takes to start.
pytestmark = [pytest.mark.horovod, pytest.mark.soak]

NUM_EPOCHS = 40

PATIENCE_SECONDS = 300
GROUP = "{here: {slots: 2, memory_gb: 8.0}}"


def run_queue(folder, *words):
    """`distributary queue WORDS` with the table and the group of this test, as a process of its own."""
    command = [sys.executable, "-m", "jobs.shell.cli", "queue", *words]
    settings = [f"queue.table={folder}/queue", f"queue.resources={GROUP}", "queue.poll_seconds=0.2"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "DISTRIBUTARY_CACHE": str(folder / "cache")}
    with ExitStack() as opened:
        log = subprocess.PIPE
        if words[0] == "run":
            log = opened.enter_context((folder / "scheduler.log").open("ab"))
        command += settings
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, cwd=folder)


def tell(folder, *words):
    """What a command prints."""
    with run_queue(folder, *words) as started:
        said = started.communicate(timeout=PATIENCE_SECONDS)[0].decode()
    assert started.returncode == 0, said
    return said


def list_all(folder):
    return json.loads(tell(folder, "list", "--json"))


def wait_for(folder, happened):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("cache/queue/*/*.log"))
        assert time.monotonic() < deadline, (folder / "scheduler.log").read_text() + logs
        time.sleep(0.05)


@pytest.fixture(scope="module")
def queued(flow, tmp_path_factory):
    """A queue in which a training was watched by two schedulers, and made room for another one."""
    folder = tmp_path_factory.mktemp("queue")
    (folder / "cache").mkdir()
    (folder / "cache" / "jars").symlink_to(cache_folder() / "jars")
    mine = [*flow_overrides(flow.folder), f"finetune.num_epochs={NUM_EPOCHS}"]
    undisturbed = [*mine, f"finetune.folder={folder}/undisturbed"]
    mine += [f"finetune.folder={folder}/trained", "tracking.experiment=queued"]
    tell(folder, "add", *mine, "--memory-gb", "4")
    first = run_queue(folder, "run")
    wait_for(folder, lambda: list(folder.glob("trained/*/checkpoints/step-*/complete.json")))
    first.send_signal(signal.SIGKILL)
    first.wait()
    # Already trained, by the flow: it needs the machine for a few seconds only.
    tell(
        folder,
        "add",
        *flow_overrides(flow.folder),
        "finetune.sequence_losses=true",
        "--priority",
        "1",
        "--memory-gb",
        "4",
    )
    second = run_queue(folder, "run", "--until-empty", "--picture", str(folder / "queue.png"))
    assert second.wait(PATIENCE_SECONDS) == 0, (folder / "scheduler.log").read_text()
    return folder, mine, undisturbed


def test_a_queue_ends_with_every_training_done_once(queued):
    folder, *_ = queued
    disturbed, urgent = list_all(folder)
    assert [disturbed["state"], urgent["state"]] == ["done", "done"]
    state = QueueTable(f"{folder}/queue").read().state
    assert state.fence == 2  # two schedulers
    # The first attempt outlived its scheduler: the second one watched it, and started none beside it.
    assert [each.outcome for each in state.trainings[1].attempts] == ["preempted", "done"]
    assert [each.outcome for each in state.trainings[2].attempts] == ["done"]
    spans = [
        (each.started_at, each.ended_at) for number in (1, 2) for each in state.trainings[number].attempts
    ]
    assert sorted(spans) == [spans[0], spans[2], spans[1]]
    assert spans[0][1] <= spans[2][0] <= spans[2][1] <= spans[1][0]
    assert (folder / "queue.png").stat().st_size > 10_000


def test_its_weights_are_those_of_an_undisturbed_training(flow, queued):
    _, mine, alone = queued
    config, other = (
        configuration.load(overrides=each).section("finetune", finetune.Config) for each in (mine, alone)
    )
    finetune.main(other)
    training, undisturbed = (finetune.plan(each).inputs[0] for each in (config, other))
    assert read_result(training.folder)["weights"] == read_result(undisturbed.folder)["weights"]
    tracking = config.tracking
    connect(tracking.uri, tracking.artifacts)
    runs = MlflowClient().search_runs([find_experiment("queued").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]  # one run, which was continued
    assert runs[0].data.tags["distributary.resumed"] == "1"


def test_logs_and_scheduler_say_what_happened(queued):
    folder, *_ = queued
    said = (folder / "scheduler.log").read_text()
    assert "1 tickets: starts in here (2 slots, 4.0 GB)" in said
    assert "1 tickets: is asked to make room at its next step" in said
    assert "1 tickets: preempted: made room" in said
    first, *_ = sorted(folder.glob("cache/queue/*/000001-001.log"))
    assert "interrupted (preempted); run the same command again to continue" in first.read_text()


def test_spark_reads_the_table(spark, queued):
    folder, _ = queued
    rows = spark.read.format("delta").load(f"{folder}/queue").orderBy("number").collect()
    assert [row["number"] for row in rows] == list(range(len(rows)))
    first = QueueTable(f"{folder}/queue").read().state.trainings[1]
    assert (rows[0]["kind"], rows[0]["training"], rows[0]["attempt"]) == ("added", 1, None)
    assert abs(rows[0]["at"].timestamp() - first.added_at) < 1e-3
