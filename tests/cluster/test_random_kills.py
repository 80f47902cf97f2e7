"""Drivers, executors, ranks and servers are killed at random: the flow gives the undisturbed result."""

import os
import random
from contextlib import suppress

import psutil
import pytest

from tests.cluster.cluster import LAKE, RUN_SECONDS
from tests.cluster.test_flow import require_same_rows
from tests.cluster.waiting import wait_for
from tests.conftest import write_tickets

pytestmark = [pytest.mark.cluster, pytest.mark.horovod, pytest.mark.soak]

NUM_KILLS = 6
"""On each storage."""
SEED = int(os.environ.get("KILL_SEED", "8"))
PAUSE_SECONDS = (5, 30)
"""Between two kills. An undisturbed flow takes about 90 s."""


def kill_driver(cluster, run, chance, root):
    run.driver.kill()


def kill_executor(cluster, run, chance, root):
    chance.choice(cluster.spark.workers).restart()


def kill_rank(cluster, run, chance, root):
    """One Python process of an executor, which is a rank while a training runs."""
    wait_for(lambda: find_workers(cluster) or not run.driver.is_alive(), RUN_SECONDS)
    if workers := find_workers(cluster):
        with suppress(psutil.NoSuchProcess):  # it ended by itself
            chance.choice(workers).kill()


def find_workers(cluster):
    """Python processes of executors on both hosts."""
    processes = [
        each for host in cluster.workers for each in psutil.Process(host.init).children(recursive=True)
    ]
    return [each for each in processes if "pyspark.daemon" in read_command(each)]


def read_command(process) -> str:
    """Its command line; empty if it has ended."""
    with suppress(psutil.NoSuchProcess):  # a zombie too
        return " ".join(process.cmdline())
    return ""


def kill_tracking_server(cluster, run, chance, root):
    cluster.tracking.server.restart()


def kill_storage(cluster, run, chance, root):
    """The server that holds the flow: that of S3, or the name node of HDFS."""
    server = cluster.hdfs.name_node if root.startswith("hdfs:") else cluster.s3
    server.kill()
    cluster.start_server(server.start)


KILLS = (kill_driver, kill_executor, kill_rank, kill_tracking_server, kill_storage)


def deal(chance):
    """Kills in random order without end; each kind comes once before one comes again."""
    while True:
        yield from chance.sample(KILLS, len(KILLS))


@pytest.mark.parametrize("storage", ["hdfs", "s3"])
def test_random_kills_change_nothing(cluster, expected, tmp_path, storage):
    print(f"KILL_SEED={SEED}")
    chance, killed, num_flows = random.Random(f"{storage} {SEED}"), [], 0
    kills = deal(chance)
    write_tickets(tmp_path)
    while len(killed) < NUM_KILLS:  # a flow may end before all kills are done: then another one begins
        num_flows += 1
        root = f"{cluster.hdfs.uri if storage == 'hdfs' else LAKE}/{storage}_killed{num_flows}"
        cluster.upload(tmp_path, f"{root}/raw")
        killed += run_and_kill(cluster, root, chance, kills, NUM_KILLS - len(killed))
        require_same_rows(cluster.results(root), expected)
    print(f"{num_flows} flows, killed: {', '.join(killed)}")
    assert set(killed) == {kill.__name__ for kill in KILLS}, killed


def run_and_kill(cluster, root, chance, kills, max_kills) -> list[str]:
    """Run the flow at root to its end, with kills while its driver runs. Names of the kills."""
    run, killed = cluster.submit(root), []
    while len(killed) < max_kills:
        if ends_within(run, chance.uniform(*PAUSE_SECONDS)):
            if run.driver.wait(0) == 0:
                return killed
            run = cluster.submit(root)  # as a scheduler does when a driver was killed or gave up
            continue
        kill = next(kills)
        kill(cluster, run, chance, root)
        killed.append(kill.__name__)
    if run.driver.wait(RUN_SECONDS) != 0:
        cluster.submit(root).finish()
    return killed


def ends_within(run, seconds) -> bool:
    """Wait until the driver ends, at most `seconds`; whether it did."""
    with suppress(AssertionError):
        wait_for(lambda: not run.driver.is_alive(), seconds)
    return not run.driver.is_alive()
