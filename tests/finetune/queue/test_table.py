"""The queue's table: its state is that of its events, and of two that change it at once one decides again."""

import threading
import time

import pytest

from pipelines.commit import ConflictError
from pipelines.finetune.queue import table as queue_table
from pipelines.finetune.queue.outcome import judge_ending
from pipelines.finetune.queue.resources import Amount
from pipelines.finetune.queue.state import PAUSE_SECONDS, Event, QueueState
from pipelines.finetune.queue.table import QueueTable
from pipelines.pin import open_log

NEEDS = {"slots": 2, "gpus": 0.0, "memory_gb": 1.5}
REQUEST = {"recipe": "r", "env": None, "config": None, "overrides": ["finetune.seed=1"]}


def added(number, at=100.0, **detail):
    about = {"name": "r", "request": REQUEST, "folder": "/", "needs": NEEDS, **detail}
    return Event(kind="added", at=at, training=number, detail=about)


def started(number, attempt=1, at=110.0, fence=1):
    detail = {"group": "local"}
    return Event(kind="started", at=at, training=number, attempt=attempt, fence=fence, detail=detail)


def ended(number, outcome, attempt=1, at=150.0):
    detail = {"outcome": outcome, "why": f"because {outcome}"}
    return Event(kind="ended", at=at, training=number, attempt=attempt, fence=1, detail=detail)


def add_one(state):
    return [added(len(state.trainings) + 1)]


def test_a_new_queue_has_nothing(tmp_path):
    table = QueueTable(str(tmp_path / "queue"))
    assert not table.exists()
    assert table.read().state == QueueState()
    assert table.exists()


def test_what_was_added_is_read_again_by_anyone(tmp_path):
    path = str(tmp_path / "queue")
    events = [
        Event(kind="scheduler", at=90.5, fence=1, detail={"host": "h", "pid": 7, "policy": "static"}),
        added(1, at=100.25, priority=3, deadline=900.0, group="cpu", seconds=60.0),
        started(1, at=110.0),
    ]
    after = QueueTable(path).change(lambda state: events)
    found = QueueTable(path).read()
    assert found.state == after
    assert found.num_events == 3
    (training,) = found.state.having("running")
    assert (training.needs, training.priority, training.deadline) == (Amount(**NEEDS), 3, 900.0)
    assert training.request == REQUEST
    assert (training.added_at, training.attempts[0].started_at) == (100.25, 110.0)
    assert (found.state.fence, found.state.scheduler["policy"]) == (1, "static")


def test_of_two_changes_at_once_one_is_refused_and_leaves_no_file(tmp_path):
    path = str(tmp_path / "queue")
    first, second = QueueTable(path), QueueTable(path)
    before = first.read(), second.read()
    first.append(before[0], [added(1)])
    with pytest.raises(ConflictError):
        second.append(before[1], [added(1)])
    assert len(list((tmp_path / "queue").glob("*.parquet"))) == 1
    assert second.change(add_one).trainings.keys() == {1, 2}


def test_many_writers_at_once_lose_nothing_and_share_no_id(tmp_path, monkeypatch):
    monkeypatch.setattr(queue_table, "MAX_FILES", 4)  # so that commits fold the files meanwhile
    path = str(tmp_path / "queue")
    QueueTable(path).read()
    faults = []

    def add_many():
        try:
            for _ in range(5):
                QueueTable(path).change(add_one)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=add_many) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    found = QueueTable(path).read()
    assert sorted(found.state.trainings) == list(range(1, 16))
    assert found.num_events == 15
    assert len(found.log.list_shards()) <= 4
    assert open_log(path).pin().num_rows >= 1  # our own commit, as every writer's


def test_a_decision_may_be_nothing_or_an_error(tmp_path):
    table = QueueTable(str(tmp_path / "queue"))
    version = table.read().log.version
    assert table.change(lambda state: []) == QueueState()
    with pytest.raises(LookupError, match="no training 7"):
        table.change(lambda state: (_ for _ in ()).throw(LookupError("no training 7")))
    assert table.read().log.version == version


def play(*events):
    return QueueState().after([added(1), *events])


@pytest.mark.parametrize("outcome", ["preempted", "lost", "unborn", "busy", "retry", "stopped"])
def test_a_training_whose_process_ended_early_waits_again(outcome):
    state = play(started(1), ended(1, outcome, at=150.0))
    (training,) = state.having("waiting")
    assert training.why == f"because {outcome}"
    pause = PAUSE_SECONDS if outcome in ("busy", "retry") else 0.0
    assert len(state.list_waiting(150.0 + pause)) == 1
    assert len(state.list_waiting(150.0 + pause - 1)) == (0 if pause else 1)


@pytest.mark.parametrize("outcome", ["done", "failed", "cancelled"])
def test_other_outcomes_are_the_end(outcome):
    state = play(started(1), ended(1, outcome))
    assert state.trainings[1].status == outcome
    assert state.list_waiting(1e12) == state.list_running() == []


def test_cancelling():
    cancelled = Event(kind="cancelled", at=120.0, training=1)
    assert play(cancelled).trainings[1].status == "cancelled"
    (stopping,) = play(started(1), cancelled).list_running()
    assert stopping.is_stopping


def test_a_request_ends_with_its_attempt():
    asked = Event(kind="asked", at=120.0, training=1, attempt=1, fence=1)
    assert play(started(1), asked).list_running()[0].is_stopping
    again = play(started(1), asked, ended(1, "preempted"), started(1, attempt=2, at=200.0))
    assert not again.list_running()[0].is_stopping


def test_the_expected_time_is_said_or_learned_and_shrinks():
    assert play().list_waiting(200.0)[0].seconds == float("inf")
    done = [started(1, at=100.0), ended(1, "done", at=140.0)]
    state = QueueState().after([added(1), *done, added(2), added(3, name="other"), added(4, seconds=9.0)])
    assert [each.seconds for each in state.list_waiting(200.0)] == [40.0, float("inf"), 9.0]
    made_room = [started(2, at=200.0), ended(2, "preempted", at=230.0)]
    assert state.after(made_room).list_waiting(300.0)[0].seconds == 10.0
    lost = [started(2, at=200.0), ended(2, "lost", at=230.0)]
    assert state.after(lost).list_waiting(300.0)[0].seconds == 40.0
    late = [started(2, at=200.0), ended(2, "preempted", at=290.0)]
    assert state.after(late).list_waiting(300.0)[0].seconds == 2.0  # a twentieth
    assert state.after([started(2, at=200.0)]).list_running()[0].ends_at == 240.0


def test_a_time_is_learned_only_where_all_of_it_is_known():
    up_to_date = ended(1, "done", at=112.0)
    up_to_date.detail["worked"] = False
    lost = [started(1), ended(1, "lost", at=150.0), started(1, 2, at=160.0), ended(1, "done", 2, at=170.0)]
    stopped = [started(1), ended(1, "preempted"), started(1, 2, at=160.0), ended(1, "done", 2, at=170.0)]
    assert play(started(1), up_to_date).estimate_seconds() == {}
    assert play(*lost).estimate_seconds() == {}
    assert play(*stopped).estimate_seconds() == {"r": 50.0}


def test_a_training_does_not_wait_for_the_clock_of_another_machine():
    assert len(play().list_waiting(50.0)) == 1  # by the clock that added it, it is 100


def summary(status, **error):
    stages = [{"stage": "finetune", "why": "new settings"}]
    return {"exit_code": status, "error": error or None, "stages": stages}


@pytest.mark.parametrize(
    ("found", "outcome", "why"),
    [
        (summary(0), "done", "new settings"),
        (summary(79, message="step 3"), "preempted", "made room"),
        (summary(143, message="stopped"), "stopped", "stopped from outside"),
        (summary(75, kind="busy", message="in use"), "busy", "another command"),
        (summary(75, kind="infrastructure", message="no server"), "retry", "exit status 75: no server"),
        (summary(65, message="no sequences"), "failed", "exit status 65: no sequences"),
        (summary(1, message="a fault"), "failed", "exit status 1: a fault"),
        (summary(None), "lost", "killed"),
        ({}, "lost", "killed"),
        (None, "unborn", "never began"),
    ],
)
def test_an_end_is_judged_by_the_summary(found, outcome, why):
    ending = judge_ending(play(started(1)).trainings[1], found, 3)
    assert ending.outcome == outcome
    assert why in ending.why


@pytest.mark.parametrize(
    ("status", "outcome", "how"),
    [
        (1, "failed", "ended with status 1"),
        (78, "failed", "ended with status 78"),
        (75, "retry", "ended with status 75"),
        (-9, "lost", "was killed by signal 9"),
    ],
)
def test_a_process_that_ended_before_it_began_is_judged_by_its_status(status, outcome, how):
    ending = judge_ending(play(started(1)).trainings[1], None, 3, status=status)
    assert ending.outcome == outcome
    assert f"{how} before it began; its log" in ending.why


def test_a_training_that_was_up_to_date_did_no_work():
    found = {"exit_code": 0, "stages": [{"state": "up to date", "why": "the same"}]}
    training = play(started(1)).trainings[1]
    assert not judge_ending(training, found, 3).worked
    assert judge_ending(training, summary(0), 3).worked


def test_too_many_faults_are_a_failure():
    once = play(started(1), ended(1, "lost"), started(1, attempt=2)).trainings[1]
    assert judge_ending(once, {}, 3).outcome == "lost"
    assert judge_ending(once, {}, 2).outcome == "failed"
    harmless = play(started(1), ended(1, "preempted"), started(1, attempt=2)).trainings[1]
    assert judge_ending(harmless, {}, 2).outcome == "lost"


def test_a_cancelled_training_does_not_wait_again():
    cancelled = play(started(1), Event(kind="cancelled", at=time.time(), training=1)).trainings[1]
    assert judge_ending(cancelled, summary(143), 3).outcome == "cancelled"
    assert judge_ending(cancelled, {}, 3).outcome == "cancelled"
    assert judge_ending(cancelled, summary(0), 3).outcome == "done"  # it was faster
