"""The scheduler and the simulation as commands."""

import errno
import json
from pathlib import Path

import pytest

from pipelines.finetune.queue.scheduler import Scheduler
from pipelines.finetune.queue.state import Event
from pipelines.finetune.queue.table import QueueTable


def test_a_queue_that_is_empty_ends_at_once(call):
    assert call("run", "--until-empty")[0] == 0


def test_a_short_fault_of_storage_ends_no_scheduler(call, monkeypatch):
    look, faults = Scheduler.look, [OSError(errno.ETIMEDOUT, "no answer"), OSError(errno.EACCES, "forbidden")]

    def fail_once(scheduler):
        if len(faults) > 1:
            raise faults.pop(0)
        return look(scheduler)

    monkeypatch.setattr(Scheduler, "look", fail_once)
    assert call("run", "--until-empty", "queue.poll_seconds=0.01")[0] == 0
    assert len(faults) == 1
    monkeypatch.setattr(Scheduler, "look", lambda scheduler: (_ for _ in ()).throw(faults[0]))
    status, said = call("run", "--until-empty")
    assert (status, "forbidden" in said) == (65, True)


def test_a_training_that_would_wait_for_ever_is_named(call):
    call("add", "--memory-gb", "20")  # only the group gpu has so much
    status, said = call("run", "--until-empty", "queue.resources={cpu: {slots: 4, memory_gb: 16.0}}")
    assert status == 65
    assert "training 1 needs 2 slots, 20.0 GB, and no group of queue.resources is so large" in said
    call("cancel", "1")
    call("add", "--memory-gb", "1", "--group", "gpu")
    status, said = call("run", "--until-empty", "queue.resources={cpu: {slots: 4, memory_gb: 16.0}}")
    assert (status, "must run in group gpu, and queue.resources has only: cpu" in said) == (65, True)


@pytest.mark.slow
def test_a_training_that_fails_is_reported_with_its_log(call, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    call("add", "--memory-gb", "1")
    status, said = call("run", "--until-empty", "queue.poll_seconds=0.1")
    assert status == 1
    assert f"1 default: failed: exit status 65: no sequences table at {tmp_path}/lake/sequences" in said
    (found,) = json.loads(call("list", "--json")[1])
    assert (found["state"], found["starts"]) == ("failed", 1)
    assert "no sequences table" in Path(found["log"]).read_text(encoding="utf-8")


def test_a_simulation_prints_a_line_for_each_policy(call, tmp_path):
    pytest.importorskip("simpy", reason="simpy is not installed: the [simulate] extra")
    status, said = call("simulate", "--count", "30", "--json", "--picture", "simulated.png")
    assert status == 0, said
    found = json.loads(said[said.index("\n{") : said.rindex("}") + 1])
    assert found["num_trainings"] == 30
    assert list(found["policies"]) == [
        "static", "round_robin", "shortest_first", "load_balanced", "resource_aware", "deadline",
    ]  # fmt: skip
    assert found["policies"]["static"]["mean_wait_seconds"] > 0
    assert set(found["policies"]["static"]["utilisation"]) == {"slots", "gpus", "memory_gb"}
    assert (tmp_path / "simulated.png").stat().st_size > 10_000
    status, said = call("simulate", "--count", "30", "--policy", "static")
    assert "resource_aware" not in said
    assert "static" in said


def test_a_simulation_without_trainings_says_so(call):
    status, said = call("simulate", "--recorded")
    assert (status, "is done yet; leave out --recorded" in said) == (65, True)
    status, said = call("simulate", "--policy", "fast")
    assert (status, "no policy named fast; choose from: static" in said) == (65, True)


def test_recorded_trainings_are_simulated_with_their_times(call, tmp_path):
    pytest.importorskip("simpy", reason="simpy is not installed: the [simulate] extra")
    call("add", "--memory-gb", "1")
    start = Event(
        kind="started", at=1e9, training=1, attempt=1, fence=1, detail={"group": "cpu", "gpus": None}
    )
    end = Event(
        kind="ended", at=1e9 + 60, training=1, attempt=1, fence=1, detail={"outcome": "done", "why": "new"}
    )
    QueueTable(str(tmp_path / "queue")).change(lambda state: [start, end])
    status, said = call("simulate", "--recorded", "--json", "--start-seconds", "0")
    assert status == 0, said
    found = json.loads(said[said.index("\n{") : said.rindex("}") + 1])
    assert {each["makespan_seconds"] for each in found["policies"].values()} == {60.0}
