"""The real scheduler with small trainings: in a test's own process, or as a script that is killed.

Arguments of the script: path of the queue, folder of the journal, moment at which it kills itself (before or
after the process of its first start; empty = never).
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipelines.finetune.queue.policies import POLICIES
from pipelines.finetune.queue.resources import Amount
from pipelines.finetune.queue.scheduler import Scheduler
from pipelines.finetune.queue.state import Event
from pipelines.finetune.queue.table import QueueTable
from pipelines.lease import Lease
from pipelines.storage import Folder

SLOTS = 2
DEFAULT_GOAL = 20


def add(queue, slots=1, goal=DEFAULT_GOAL, **detail):
    """Add a small training; its id."""

    def decide(state):
        about = {
            "name": "small",
            "request": {"goal": goal},
            "folder": "/",
            "needs": {"slots": slots, "gpus": 0.0, "memory_gb": 0.0},
            **detail,
        }
        return [Event(kind="added", at=time.time(), training=len(state.trainings) + 1, detail=about)]

    return len(QueueTable(str(queue)).change(decide).trainings)


def launch_small(queue, journal, training, attempt):
    module = "tests.finetune.queue.small_training"
    goal = str(training.request["goal"])
    numbers = [str(training.id), str(attempt.number), goal, str(journal)]
    return subprocess.Popen([sys.executable, "-m", module, str(queue), *numbers], start_new_session=True)


def make_scheduler(queue, journal, *, launch=None, policy=None, max_faults=3):
    def start(training, attempt):
        return launch_small(queue, journal, training, attempt)

    scheduler = Scheduler(
        table=QueueTable(str(queue)),
        policy_name="resource_aware",
        policy=policy or POLICIES["resource_aware"],
        resources={"local": Amount(slots=SLOTS)},
        launch=launch or start,
        max_faults=max_faults,
    )
    scheduler.take_over()
    return scheduler


def main(queue: str, journal: str, moment: str) -> None:
    def launch(training, attempt):
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        started = launch_small(queue, journal, training, attempt)
        if moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return started

    with Lease(Folder(queue) / "_scheduler"):
        scheduler = make_scheduler(queue, journal, launch=launch)
        while scheduler.look().having("waiting", "running"):
            time.sleep(0.05)


def read_journal(journal):
    """(time, what, training, attempt, last) of each line."""
    lines = (Path(journal) / "journal.txt").read_text().splitlines()
    found = [line.split() for line in lines]
    return [(float(at), what, int(number), int(attempt), last) for at, what, number, attempt, last in found]


def require_no_double(journal, num_trainings):
    """Each training ended well once, no attempt began twice, and none began while another one lived."""
    lines = read_journal(journal)
    begun = [(number, attempt) for _, what, number, attempt, _ in lines if what == "begin"]
    assert len(set(begun)) == len(begun), lines
    done = [number for _, what, number, _, last in lines if what == "end" and last == "0"]
    assert sorted(done) == list(range(1, num_trainings + 1)), lines
    for number in range(1, num_trainings + 1):
        kinds = [what for _, what, each, _, _ in lines if each == number]
        assert kinds == ["begin", "end"] * (len(kinds) // 2), lines


if __name__ == "__main__":
    main(*sys.argv[1:4])
