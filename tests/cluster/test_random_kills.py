"""Drivers, executors, ranks and servers are killed at random: the flow gives the undisturbed result."""

import random
from contextlib import suppress

import psutil
import pytest

from tests.cluster.cluster import LAKE, RUN_SECONDS
from tests.cluster.test_flow import require_same_rows
from tests.cluster.waiting import wait_for
from tests.conftest import write_tickets

pytestmark = [pytest.mark.cluster, pytest.mark.horovod, pytest.mark.soak]

NUM_KILLS = 12
SEED = 8
PAUSE_SECONDS = (5, 30)
"""Between two kills. An undisturbed flow takes about 90 s."""


def kill_driver(cluster, run, chance):
    run.driver.kill()


def kill_executor(cluster, run, chance):
    chance.choice(cluster.spark.workers).restart()


def kill_rank(cluster, run, chance):
    """One Python process of an executor, which is a rank while a training runs."""
    host = chance.choice(cluster.workers)
    workers = [
        each
        for each in psutil.Process(host.init).children(recursive=True)
        if "pyspark.daemon" in " ".join(each.cmdline())
    ]
    if workers:
        chance.choice(workers).kill()


def kill_tracking_server(cluster, run, chance):
    cluster.tracking.server.restart()


def kill_storage(cluster, run, chance):
    cluster.s3.kill()
    cluster.start_server(cluster.s3.start)


KILLS = (kill_driver, kill_executor, kill_rank, kill_tracking_server, kill_storage)


def test_twelve_random_kills_change_nothing(cluster, expected, tmp_path):
    chance, killed, num_flows = random.Random(SEED), [], 0
    write_tickets(tmp_path)
    while len(killed) < NUM_KILLS:  # a flow may end before all kills are done: then another one begins
        num_flows += 1
        root = f"{LAKE}/killed{num_flows}"
        cluster.upload(tmp_path, f"{root}/raw")
        killed += run_and_kill(cluster, root, chance, NUM_KILLS - len(killed))
        require_same_rows(cluster.results(root), expected)
    assert len(set(killed)) >= 4, killed


def run_and_kill(cluster, root, chance, max_kills) -> list[str]:
    """Run the flow at root to its end, with kills while its driver runs. Names of the kills."""
    run, killed = cluster.submit(root), []
    while len(killed) < max_kills:
        if ends_within(run, chance.uniform(*PAUSE_SECONDS)):
            if run.driver.wait(0) == 0:
                return killed
            run = cluster.submit(root)  # as a scheduler does when a driver was killed or gave up
            continue
        kill = chance.choice(KILLS)
        kill(cluster, run, chance)
        killed.append(kill.__name__)
    if run.driver.wait(RUN_SECONDS) != 0:
        cluster.submit(root).finish()
    return killed


def ends_within(run, seconds) -> bool:
    """Wait until the driver ends, at most `seconds`; whether it did."""
    with suppress(AssertionError):
        wait_for(lambda: not run.driver.is_alive(), seconds)
    return not run.driver.is_alive()
