"""The scheduler with real processes of small trainings; what happens to it when others are faster."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from pipelines.finetune.queue import scheduler as queue_scheduler
from pipelines.finetune.queue.attempt import AttemptFolder
from pipelines.finetune.queue.policies import POLICIES
from pipelines.finetune.queue.resources import Amount
from pipelines.finetune.queue.state import Event
from pipelines.finetune.queue.table import QueueTable
from pipelines.lease import LeaseHeldError, LeaseLostError
from tests.finetune.queue import small_scheduler as small
from tests.finetune.queue.small_scheduler import add, make_scheduler, read_journal, require_no_double
from tests.processes import CHECKOUT, wait_until


@pytest.fixture
def queue(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    return tmp_path / "queue"


def launch_nothing(training, attempt):
    raise AssertionError("nothing may start")


def fail_to_start(training, attempt):
    raise OSError(errno.ENOSPC, "no space left")


def look_until(scheduler, happened):
    """Rounds of the scheduler until `happened(state)`; the state."""
    deadline = time.monotonic() + 60
    while not happened(state := scheduler.look()):
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def is_empty(state):
    return not state.having("waiting", "running")


def has_begun(journal, number, attempt=1):
    file = journal / "journal.txt"
    return file.exists() and f"begin {number} {attempt} " in file.read_text()


def list_kinds(queue, number):
    """Kind and outcome of the events of a training, from the table itself."""
    import deltalake

    rows = deltalake.DeltaTable(str(queue)).to_pyarrow_table().sort_by("number").to_pylist()
    return [row["kind"] for row in rows if row["training"] == number]


def test_a_scheduler_that_was_replaced_starts_nothing(queue, tmp_path):
    first = make_scheduler(queue, tmp_path, launch=launch_nothing)
    second = make_scheduler(queue, tmp_path, launch=launch_nothing)
    add(queue, slots=small.SLOTS + 1)
    second.look()
    add(queue)
    with pytest.raises(LeaseLostError, match="was taken over by scheduler 2"):
        first.look()
    assert list_kinds(queue, 2) == ["added"]


def test_a_scheduler_that_is_replaced_while_it_decides_starts_nothing(queue, tmp_path):
    class Slow:
        def choose(self, waiting, running, resources, now):
            make_scheduler(queue, tmp_path, launch=launch_nothing)  # takes over meanwhile
            return POLICIES["static"].choose(waiting, running, resources, now)

    add(queue)
    with pytest.raises(LeaseLostError, match="was taken over by scheduler 2"):
        make_scheduler(queue, tmp_path, launch=launch_nothing, policy=Slow()).look()
    assert list_kinds(queue, 1) == ["added"]


def test_a_training_that_is_cancelled_while_the_scheduler_decides_does_not_start(queue, tmp_path):
    class Slow:
        def choose(self, waiting, running, resources, now):
            for each in waiting:
                event = Event(kind="cancelled", at=now, training=each.id)
                QueueTable(str(queue)).change(lambda state, event=event: [event])
            return POLICIES["static"].choose(waiting, running, resources, now)

    add(queue)
    scheduler = make_scheduler(queue, tmp_path, launch=launch_nothing, policy=Slow())
    scheduler.look()
    assert scheduler.look().trainings[1].status == "cancelled"
    assert list_kinds(queue, 1) == ["added", "cancelled"]


def test_an_attempt_is_claimed_once(tmp_path):
    first, second = (AttemptFolder(str(tmp_path), 1, 1) for _ in range(2))
    assert first.read_life() == "not begun"
    with first.claim() as is_first, second.claim() as is_second:
        assert (is_first, is_second) == (True, False)
        assert second.read_life() == "alive"
        assert not second.give_up()
    given_up = AttemptFolder(str(tmp_path), 1, 2)
    assert given_up.give_up()
    assert given_up.read_life() == "given up"
    with given_up.claim() as is_mine:
        assert not is_mine


def test_a_process_of_another_machine_is_dead_when_its_lease_is_old(tmp_path, monkeypatch):
    from pipelines import process
    from pipelines.finetune.queue import attempt

    place = AttemptFolder(str(tmp_path), 1, 1)
    with place.claim():
        monkeypatch.setattr(process, "_machine", lambda: "another one")
        assert place.read_life() == "alive"
        assert not place.send(signal.SIGUSR1)
        monkeypatch.setattr(attempt, "DEAD_SECONDS", -1.0)
        assert place.read_life() == "ended"


def test_a_process_that_cannot_be_started_is_a_fault_and_a_pause(queue, tmp_path):
    add(queue)
    scheduler = make_scheduler(queue, tmp_path, launch=fail_to_start)
    for _ in range(4):
        state = scheduler.look()
    (training,) = state.having("waiting")
    assert [each.outcome for each in training.attempts] == ["retry"]
    assert "could not be started: [Errno 28] no space left" in training.why
    assert list_kinds(queue, 1) == ["added", "started", "ended"]


def test_half_a_claim_is_neither_given_up_nor_the_end_of_the_scheduler_at_once(queue, tmp_path, monkeypatch):
    add(queue)
    start_elsewhere(queue, 1)
    claim = queue / "_attempts/000001-001/claim.json"
    claim.parent.mkdir(parents=True)
    claim.write_bytes(b"")
    scheduler = make_scheduler(queue, tmp_path, launch=launch_nothing)
    for _ in range(2):
        assert scheduler.look().having("running")
    monkeypatch.setattr(queue_scheduler, "DEAD_SECONDS", -1.0)
    with pytest.raises(RuntimeError, match=r"claim\.json cannot be read .* delete the file"):
        scheduler.look()
    assert claim.read_bytes() == b""
    claim.unlink()
    scheduler.launch = fail_to_start
    assert [each.outcome for each in scheduler.look().trainings[1].attempts] == ["unborn", ""]


def test_a_training_waits_until_one_gpu_has_room_for_it(queue, tmp_path):
    for part in (0.6, 0.6, 0.8):
        add(queue, needs={"slots": 1, "gpus": part, "memory_gb": 0.0})
    scheduler = make_scheduler(queue, tmp_path, launch=launch_nothing)
    scheduler.resources = {"local": Amount(slots=8, gpus=2.0)}
    places = [AttemptFolder(str(queue), number, 1) for number in (1, 2)]
    with places[0].claim(), places[1].claim():
        for gpu, number in enumerate((1, 2)):
            start_elsewhere(queue, number, gpus=[gpu])
        for _ in range(2):  # the group has 0.8 GPUs left, and no GPU has
            assert scheduler.look().trainings[3].status == "waiting"


def start_elsewhere(queue, number, gpus=None):
    """Write that a training was started, without a process."""
    detail = {"group": "local", "gpus": gpus}
    event = Event(kind="started", at=time.time(), training=number, attempt=1, fence=1, detail=detail)
    QueueTable(str(queue)).change(lambda state: [event])


def test_a_process_of_an_attempt_that_was_given_up_does_nothing(queue, tmp_path):
    add(queue)
    AttemptFolder(str(queue), 1, 1).give_up()
    command = [sys.executable, "-m", "tests.finetune.queue.small_training", str(queue)]
    assert subprocess.run([*command, "1", "1", "5", str(tmp_path)], timeout=60).returncode == 0
    assert not (tmp_path / "journal.txt").exists()


@pytest.mark.slow
def test_trainings_run_once_each_within_the_slots_and_make_room(queue, tmp_path):
    add(queue, slots=2, goal=200)
    scheduler = make_scheduler(queue, tmp_path)
    look_until(scheduler, lambda state: has_begun(tmp_path, 1))
    for slots in (1, 1, 2):
        add(queue, slots=slots, priority=1)
    cancelled, waiting = add(queue, slots=2, goal=10_000, priority=2), add(queue, goal=10_000)
    look_until(scheduler, lambda state: has_begun(tmp_path, cancelled))
    for number in (cancelled, waiting):
        event = Event(kind="cancelled", at=time.time(), training=number)
        QueueTable(str(queue)).change(lambda state, event=event: [event])
    state = look_until(scheduler, is_empty)
    statuses = [each.status for each in state.trainings.values()]
    assert statuses == ["done", "done", "done", "done", "cancelled", "cancelled"]
    first = state.trainings[1]
    assert [each.outcome for each in first.attempts] == ["preempted", "done"]
    assert (tmp_path / "1.count").read_text() == "200"  # it went on, and did not begin again
    lines = read_journal(tmp_path)
    assert sum(what == "begin" for _, what, *_ in lines) == 2 + 3 + 1
    used, sizes = 0, {each.id: each.needs.slots for each in state.trainings.values()}
    for _, what, number, _, _ in sorted(lines):
        used += sizes[number] if what == "begin" else -sizes[number]
        assert 0 <= used <= small.SLOTS


@pytest.mark.slow
def test_a_killed_training_goes_on_until_it_was_killed_too_often(queue, tmp_path):
    add(queue, goal=100_000)
    scheduler = make_scheduler(queue, tmp_path, max_faults=2)
    for attempt in (1, 2):
        look_until(scheduler, lambda state, attempt=attempt: has_begun(tmp_path, 1, attempt))
        os.kill(int(read_journal(tmp_path)[-1][4]), signal.SIGKILL)
    state = look_until(scheduler, is_empty)
    (training,) = state.having("failed")
    assert [each.outcome for each in training.attempts] == ["lost", "failed"]
    assert training.why == "its process was killed; attempt 2 of 2 that ended so"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_scheduler_that_is_killed_at_a_start_starts_nothing_twice(queue, tmp_path, moment):
    for _ in range(2):
        add(queue)
    killed = run_script(queue, tmp_path, moment)
    assert killed.wait(60) == -signal.SIGKILL
    assert list_kinds(queue, 1) == ["added", "started"]  # committed, and then killed
    assert run_script(queue, tmp_path, "").wait(60) == 0
    require_no_double(tmp_path, 2)
    state = QueueTable(str(queue)).read().state
    outcomes = {each.outcome for training in state.trainings.values() for each in training.attempts}
    assert outcomes <= {"done", "unborn"}
    if moment == "before":
        assert outcomes == {"done", "unborn"}


@pytest.mark.slow
def test_two_schedulers_at_once_are_refused(queue, tmp_path):
    from pipelines.lease import Lease
    from pipelines.storage import Folder

    add(queue, goal=30)
    running = run_script(queue, tmp_path, "")
    wait_until(lambda: has_begun(tmp_path, 1))
    with (
        pytest.raises(LeaseHeldError, match=f"in use by process {running.pid}"),
        Lease(Folder(str(queue)) / "_scheduler"),
    ):
        pass
    assert running.wait(60) == 0


def run_script(queue, journal, moment):
    module = "tests.finetune.queue.small_scheduler"
    return subprocess.Popen([sys.executable, "-m", module, str(queue), str(journal), moment])


def kill_at_random(queue, journal, *, num_kills, seed):
    """Schedulers that are killed after 0.6 to 2.5 s, then one that ends; how many were killed."""
    import random

    moments, num_killed = random.Random(seed), 0
    for _ in range(num_kills):
        scheduler = run_script(queue, journal, "")
        try:
            scheduler.wait(moments.uniform(0.6, 2.5))
            break
        except subprocess.TimeoutExpired:
            scheduler.kill()
            scheduler.wait()
            num_killed += 1
    assert run_script(queue, journal, "").wait(200) == 0
    return num_killed


@pytest.mark.slow
def test_schedulers_killed_at_any_moment_start_nothing_twice(queue, tmp_path):
    for _ in range(6):
        add(queue, goal=60)
    assert kill_at_random(queue, tmp_path, num_kills=4, seed=1) >= 2
    require_no_double(tmp_path, 6)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_many_schedulers_killed_at_any_moment_start_nothing_twice(queue, tmp_path, seed):
    for number in range(30):
        add(queue, goal=40, slots=1 + number % 2, priority=number % 3)
    assert kill_at_random(queue, tmp_path, num_kills=25, seed=seed) >= 10
    require_no_double(tmp_path, 30)
