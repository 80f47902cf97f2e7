"""The commands of the queue: what is added, refused, listed, cancelled and simulated."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from jobs.finetune import Config
from jobs.shell import settings as configuration
from jobs.shell.layers import CONF
from jobs.shell.queue_launch import Launcher
from jobs.shell.queue_settings import DRIVER_GB, Group, QueueConfig, find_needs, parse_deadline
from jobs.shell.queue_show import describe_events, describe_state, describe_training, format_seconds
from jobs.shell.queue_worker import Order, name_gpus
from pipelines.finetune.queue.attempt import AttemptFolder
from pipelines.finetune.queue.resources import Amount, choose_gpus
from pipelines.finetune.queue.state import Attempt, Event, QueueState
from pipelines.finetune.queue.table import QueueTable
from tests.processes import CHECKOUT


def read_state(folder):
    return QueueTable(str(folder / "queue")).read().state


def test_base_has_every_key_of_the_section():
    base = OmegaConf.load(CONF / "base.yaml")
    own = QueueConfig.model_fields.keys() - {"spark", "tracking", "storage", "effective"}
    assert set(base["queue"]) == own


def test_a_training_is_added_with_what_it_needs(call, tmp_path):
    words = ("--ranks", "3", "--priority", "2", "--minutes", "1.5", "--group", "cpu", "finetune.seed=7")
    status, said = call("add", *words, "finetune.global_batch=30")
    assert status == 0, said
    # There are no sequences yet, so its memory is not known.
    assert said.startswith(
        f"1 default: needs 3 slots, {3 * 2 + DRIVER_GB:.1f} GB (memory: queue.memory_gb_per_rank"
    )
    training = read_state(tmp_path).trainings[1]
    assert training.needs == Amount(slots=3, memory_gb=3 * 2 + DRIVER_GB)
    assert (training.priority, training.seconds, training.group) == (2, 90.0, "cpu")
    assert training.folder == str(tmp_path)
    assert "finetune.num_ranks=3" in training.request["overrides"]
    assert "finetune.seed=7" in training.request["overrides"]


def test_memory_and_gpus_may_be_given(call, tmp_path):
    assert call("add", "--memory-gb", "20", "--gpus", "2")[0] == 0
    assert read_state(tmp_path).trainings[1].needs == Amount(slots=2, gpus=2.0, memory_gb=20.0)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["finetune.sede=1"], "unknown key finetune.sede; did you mean seed"),
        (["finetune.num_epochs=none"], "finetune.num_epochs should be a valid number"),
        (["--group", "tpu"], "no group named tpu; queue.resources has: cpu, gpu"),
        (["--memory-gb", "40"], "needs 2 slots, 40.0 GB, and no group of queue.resources is so large"),
        (["--gpus", "2", "--group", "cpu"], "no group of queue.resources is so large"),
        (["--deadline", "soon"], "--deadline must be a date and time such as 2026-01-31T18:00"),
        (["--deadline", "2020-01-31T18:00"], "--deadline must be in the future, got 2020-01-31T18:00"),
        (["spark.fs.s3a.secret.key=abcdefgh"], "spark.fs.s3a.secret.key looks like a secret"),
        (["spark.fs.s3a.secret.key=REAL${oc.env:HOME}"], "spark.fs.s3a.secret.key looks like a secret"),
        (["spark.authenticate.secret=${oc.env:NAME,hunter2}"], "spark.authenticate.secret looks like"),
        (["spark.x=http://u:pw@${oc.env:HOME}/"], "spark.x looks like a secret"),
        (["spark.x=-Da.password=pw${oc.env:HOME}"], "spark.x looks like a secret"),
        (["queue.resources={a: {spark: {master: yarn}}}"], "should match pattern"),
        (["queue.policy=fast"], "queue.policy should be 'static', 'round_robin'"),
        (["queue.resources={a: {slots: 0}}"], "queue.resources.a.slots should be greater than or equal to 1"),
    ],
)
def test_what_cannot_be_added_is_refused(call, tmp_path, words, fault):
    status, said = call("add", *([] if "--memory-gb" in words else ["--memory-gb", "1"]), *words)
    assert status in (65, 78)
    assert fault in said
    assert not (tmp_path / "queue").exists()


def test_a_secret_from_the_environment_is_kept_as_its_name(call, tmp_path, monkeypatch):
    monkeypatch.setenv("STORE_SECRET", "do-not-tell")
    secrets = [
        "storage.s3.secret_key=${oc.env:STORE_SECRET}",
        "spark.x=http://u:${oc.env:STORE_SECRET}@h",
        'spark.y=-Da.password="${oc.env:STORE_SECRET}" -Db=1',
    ]
    status, said = call("add", "--memory-gb", "1", *secrets)
    assert status == 0, said
    kept = b"".join(file.read_bytes() for file in (tmp_path / "queue").rglob("*") if file.is_file())
    assert b"do-not-tell" not in kept
    overrides = read_state(tmp_path).trainings[1].request["overrides"]
    assert set(secrets) < set(overrides)


def test_cancelling_and_listing(call, tmp_path):
    assert "no trainings in" in call("list")[1]
    status, said = call("cancel", "1")
    assert (status, "no queue at" in said) == (65, True)
    assert not (tmp_path / "queue").exists()  # neither creates anything
    call("add", "--memory-gb", "1")
    call("add", "--memory-gb", "1")
    assert call("cancel", "1") == (0, "1 default: cancelled\n")
    status, said = call("cancel", "1")
    assert (status, "training 1 is cancelled already" in said) == (65, True)
    status, said = call("cancel", "3")
    assert (status, "no training 3 in" in said) == (65, True)
    found = json.loads(call("list", "--json")[1])
    assert [(each["id"], each["state"]) for each in found] == [(1, "cancelled"), (2, "waiting")]
    assert found[0]["why"] == "cancelled before it started"
    listed = call("list")[1]
    assert "waiting" in listed
    assert "2 slots, 1.0" in listed
    status, said = call("list", "--picture", "queue.png")
    assert (status, "nothing has started" in said) == (65, True)


def test_a_running_training_is_cancelled_by_the_scheduler(call, tmp_path):
    call("add", "--memory-gb", "1")
    detail = {"group": "cpu", "gpus": None}
    start = Event(kind="started", at=time.time(), training=1, attempt=1, fence=1, detail=detail)
    QueueTable(str(tmp_path / "queue")).change(lambda state: [start])
    for _ in range(2):  # the second time changes nothing
        assert call("cancel", "1") == (0, "1 default: the scheduler will stop it (distributary queue run)\n")
    assert read_state(tmp_path).having("running")[0].is_cancelled
    assert json.loads(call("list", "--json")[1])[0]["is_stopping"]
    status, said = call("list", "--picture", "queue.png")
    assert status == 0, said
    assert (tmp_path / "queue.png").read_bytes().startswith(b"\x89PNG")


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+90m", datetime(2026, 3, 1, 11, 30, tzinfo=UTC)),
        ("+1.5h", datetime(2026, 3, 1, 11, 30, tzinfo=UTC)),
        ("+2d", datetime(2026, 3, 3, 10, 0, tzinfo=UTC)),
        ("2026-03-02T08:00+01:00", datetime(2026, 3, 2, 7, 0, tzinfo=UTC)),
        ("2026-03-02T08:00", datetime(2026, 3, 2, 8, 0).astimezone()),
    ],
)
def test_a_deadline_is_a_time_or_so_far_ahead(text, expected):
    assert parse_deadline(text, NOW) == expected.timestamp()


def test_a_machine_alone_is_one_group():
    config = configuration.load().section("queue", QueueConfig)
    (amount,) = config.amounts().values()
    assert list(config.amounts()) == ["local"]
    assert amount.slots == len(os.sched_getaffinity(0))
    assert amount.gpus == 0
    assert 0.1 < amount.memory_gb <= 1e6


def test_ranks_need_threads_and_their_gpus():
    overrides = ["finetune.num_ranks=4", "finetune.num_threads=3", "finetune.gpus_per_rank=0.5"]
    config = configuration.load(overrides=overrides).section("finetune", Config)
    assert find_needs(config, 8.0, None) == Amount(slots=12, gpus=2.0, memory_gb=8.0)
    assert find_needs(config, 8.0, 0.0).gpus == 0.0


def make_training(**changes):
    detail = {
        "name": "r",
        "request": {"recipe": None, "env": None, "config": None, "overrides": []},
        "folder": "/",
        "needs": {"slots": 3, "gpus": 0.0, "memory_gb": 1.0},
        **changes,
    }
    return QueueState().after([Event(kind="added", at=100.0, training=1, detail=detail)])


def test_a_standalone_master_is_asked_for_the_cores_of_the_training():
    groups = {
        "here": Group(),
        "farm": Group(spark={"spark.master": "spark://host:7077"}),
        "few": Group(spark={"spark.master": "spark://host:7077", "spark.cores.max": "1"}),
        "yarn": Group(spark={"spark.master": "yarn"}),
    }
    launcher, training = Launcher("/queue", groups), make_training().trainings[1]
    found = {
        name: launcher._find_spark(training, Attempt(number=1, group=name, started_at=0.0)) for name in groups
    }
    assert found == {
        "here": {},
        "farm": {"spark.master": "spark://host:7077", "spark.cores.max": "3"},
        "few": {"spark.master": "spark://host:7077", "spark.cores.max": "1"},
        "yarn": {"spark.master": "yarn"},
    }


def test_secrets_of_a_group_reach_its_training_by_environment_alone(tmp_path, monkeypatch):
    secrets = {"FARM_TOKEN": "for-the-farm-only", "FARM_WORD": "for-its-network"}
    for name, value in {**secrets, "DISTRIBUTARY_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    group = "{spark: {spark.x: '${oc.env:FARM_TOKEN}', spark.authenticate.secret: '${oc.env:FARM_WORD}'}}"
    settings = configuration.load(overrides=[f"queue.resources={{farm: {group}}}"])
    launcher = Launcher(f"{tmp_path}/queue", settings.section("queue", QueueConfig).groups())
    training = make_training(folder=f"{tmp_path}/gone").trainings[1]
    with launcher(training, Attempt(number=1, group="farm", started_at=0.0)) as started:
        status = started.wait(120)
    assert not [value for value in secrets.values() if value in " ".join(started.args)]
    (log,) = (tmp_path / "cache").rglob("000001-001.log")
    assert (status, "gone" in log.read_text(encoding="utf-8")) == (78, True)  # its folder: before the claim
    given = json.loads(started.args[-1])["spark"]
    assert given["spark.x"] == "${oc.env:DISTRIBUTARY_GROUP_SECRET_1}"
    for number, value in enumerate(secrets.values(), 1):
        monkeypatch.setenv(f"DISTRIBUTARY_GROUP_SECRET_{number}", value)
    found = configuration.load(overrides=[f"{name}={value}" for name, value in given.items()])
    assert {found.tree["spark"][name] for name in given} == set(secrets.values())
    assert not [value for value in secrets.values() if value in found.printed]


def test_gpus_are_given_one_by_one_and_parts_together():
    assert choose_gpus(0.0, 2, {}) == []
    assert choose_gpus(1.0, 2, {0: 1.0}) == [1]
    assert choose_gpus(2.0, 3, {1: 1.0}) == [0, 2]
    assert choose_gpus(0.5, 2, {1: 0.5}) == [1]  # beside the other part
    assert choose_gpus(0.5, 2, {0: 0.75, 1: 0.75}) is None  # no one has room: the parts lie badly
    assert choose_gpus(1.5, 2, {0: 0.25}) == [0, 1]
    assert choose_gpus(1.5, 2, {0: 0.5}) is None
    assert choose_gpus(2.0, 1, {}) is None


def test_gpus_have_the_names_that_the_scheduler_sees(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (name_gpus([0, 2]), name_gpus([])) == ("0,2", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
    assert name_gpus([1]) == "GPU-abc"


def run_worker(order, cwd):
    command = [sys.executable, "-m", "jobs.shell.queue_worker", order.to_json()]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_a_worker_claims_and_leaves_a_summary_or_does_nothing(tmp_path):
    request = {"recipe": None, "env": None, "config": None, "overrides": ["root=lake"]}
    order = Order(
        queue=str(tmp_path / "queue"),
        training=1,
        attempt=1,
        folder=str(tmp_path),
        request=request,
        spark={},
        gpus=None,
    )
    place = AttemptFolder(order.queue, 1, 1)
    ended = run_worker(order, Path("/"))
    assert ended.returncode == 65, ended.stderr
    assert place.read_life() == "ended"
    summary = place.read_summary()
    assert summary["exit_code"] == 65
    assert f"no sequences table at {tmp_path}/lake/sequences" in summary["error"]["message"]
    again = run_worker(order, Path("/"))
    assert (again.returncode, "given up before" in again.stdout) == (0, True)


def test_what_happened_is_said_in_lines():
    state = make_training()
    start = Event(
        kind="started", at=110.0, training=1, attempt=1, fence=1, detail={"group": "cpu", "gpus": None}
    )
    state = state.after([start])
    (line,) = describe_events(state, [start], "/queue")
    assert line.startswith("1 r: starts in cpu (3 slots, 1.0 GB); ")
    assert line.endswith("/000001-001.log")
    assert describe_state(state).startswith("running: 1 r ")
    why = {"outcome": "failed", "why": "no host s3a://user:secret@bucket"}
    end = Event(kind="ended", at=150.0, training=1, attempt=1, fence=1, detail=why)
    assert describe_events(state, [end], "/queue") == ["1 r: failed: no host s3a://[redacted]@bucket"]
    about = describe_training(state.after([end]).trainings[1], "/queue", now=1e6)
    assert (about["waited_seconds"], about["ran_seconds"], about["starts"]) == (10.0, 40.0, 1)
    assert describe_state(state.after([end])) == "nothing runs; 1 failed"


def test_times_are_short():
    assert [format_seconds(each) for each in (6.6, 750, 11_100)] == ["0:07", "12:30", "3:05:00"]
