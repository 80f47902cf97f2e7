"""A training that makes room ends at a checkpoint, and its final weights are those of one that did not."""

import os
import signal
import threading
from pathlib import Path

import pytest

from jobs.shell.exits import Exit, find_exit
from pipelines.finetune import preemption
from pipelines.finetune.preemption import (
    REQUEST,
    Preempted,
    RequestReader,
    heed_requests,
    pass_on_request,
    require_no_request,
)
from pipelines.finetune.results import read_result
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune.data import make_training
from tests.finetune.ranks import run_processes
from tests.processes import wait_until


def train_all(world, training):
    return train_rank(training, world)


@pytest.mark.slow
@pytest.mark.horovod
@pytest.mark.parametrize(("num_ranks", "strategy"), [(1, "single"), (2, "sharded_optimizer")])
def test_a_training_that_makes_room_again_and_again_ends_with_the_same_weights(root, num_ranks, strategy):
    asked, whole = (
        make_training(root, folder=str(root / name), strategy=strategy, num_epochs=1.0, ema_decay=0.9)
        for name in ("asked", "whole")
    )
    request = Path(asked.folder) / REQUEST
    request.parent.mkdir()
    request.touch()
    for step in (1, 2):  # the file stays, so each launch trains one step
        said = run_processes(train_all, asked, num_ranks=num_ranks)
        assert said == [{"made_room_at": step}] * num_ranks
        assert (Path(asked.folder) / "checkpoints" / f"step-{step:08d}" / "complete.json").exists()
    assert read_result(asked.folder) is None
    request.unlink()
    results = [run_processes(train_all, each, num_ranks=num_ranks)[0] for each in (asked, whole)]
    assert results[0]["weights"] == results[1]["weights"]
    assert results[0]["after"] == results[1]["after"]


def test_a_request_in_the_last_step_is_too_late(root):
    training = make_training(root, num_epochs=0.1)  # one step
    Folder(training.folder).write(REQUEST, b"")
    (result,) = run_processes(train_all, training, num_ranks=1)
    assert result["total_steps"] == 1
    assert "weights" in result


def test_a_signal_becomes_a_file_once(tmp_path):
    run = Folder(str(tmp_path))
    run.write(REQUEST, b"of an earlier launch")
    with heed_requests(), heed_requests():
        look = pass_on_request(run)
        assert not run.exists(REQUEST)
        look()
        assert not run.exists(REQUEST)
        require_no_request()
        os.kill(os.getpid(), signal.SIGUSR1)
        look()
        assert run.exists(REQUEST)
        run.delete(REQUEST)
        look()
        assert not run.exists(REQUEST)
        with pytest.raises(Preempted, match="before its ranks were launched"):
            require_no_request()
    require_no_request()  # the request ended with the outer context


def test_a_store_that_refuses_the_file_gets_it_later(tmp_path, monkeypatch):
    run, refused = Folder(str(tmp_path)), []

    def refuse(*_):
        refused.append(True)
        raise OSError("the store is away")

    with heed_requests():
        look = pass_on_request(run)
        os.kill(os.getpid(), signal.SIGUSR1)
        with monkeypatch.context() as patch:
            patch.setattr(run, "write", refuse)
            look()
        assert refused
        look()
    assert run.exists(REQUEST)


def test_an_inner_context_forgets_no_request():
    with heed_requests():
        with heed_requests():
            os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Preempted):
            require_no_request()


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGUSR1), []

    def look():
        with heed_requests():
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=look)
    thread.start()
    wait_until(lambda: seen)
    thread.join()
    assert seen == [before]


def test_only_rank_0_looks_and_not_at_every_step(tmp_path, monkeypatch):
    run = Folder(str(tmp_path))
    first, second = RequestReader(run, 0), RequestReader(run, 1)
    assert not first.is_asked()
    run.write(REQUEST, b"")
    assert not first.is_asked()  # it has just looked
    assert not second.is_asked()
    monkeypatch.setattr(preemption, "LOOK_SECONDS", 0.0)
    assert first.is_asked()
    assert not second.is_asked()


def test_a_store_that_does_not_answer_asks_for_nothing(tmp_path, monkeypatch):
    run = Folder(str(tmp_path))

    def fail(name):
        raise OSError("the store is away")

    monkeypatch.setattr(run, "exists", fail)
    assert not RequestReader(run, 0).is_asked()


def test_making_room_has_a_status_of_its_own():
    assert find_exit(Preempted("step 3"), configuring=False) is Exit.PREEMPTED == 79
