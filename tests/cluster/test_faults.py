"""Hosts, servers and executors fail while stages run: the result is that of an undisturbed run, once."""

import time

import pytest

from tests.cluster.cluster import LAKE
from tests.cluster.test_flow import require_same_rows
from tests.conftest import write_tickets

pytestmark = [pytest.mark.cluster, pytest.mark.horovod]

IN_TRAINING = "step 0: test:"
"""The first line that ranks cause; about 10 s before the end of the training."""
CUT_SECONDS = 30
"""Longer than spark.network.timeout of the cluster and its interval, 25 s: the driver gives the host up."""
IN_WORK = ("writing quarantine", "packing documents into sequences", IN_TRAINING)
"""Lines of three stages: Python tasks read and write, Spark reads, ranks write checkpoints."""
HDFS_SECONDS = 16
"""Both servers are away for 20 s and more: each takes some seconds to start again."""


def require_equal(cluster, s3_flow, name, expected):
    require_same_rows(cluster.results(f"{LAKE}/{name}", tables=s3_flow), expected)


@pytest.mark.parametrize(
    "attempt", [1, *(pytest.param(number, marks=pytest.mark.soak) for number in (2, 3, 4, 5))]
)
def test_host_cut_off_in_training_changes_nothing(cluster, s3_flow, expected, attempt):
    run = cluster.submit_training(s3_flow, f"{LAKE}/cut{attempt}")
    run.wait_for_line(IN_TRAINING)
    host = cluster.workers[attempt % 2]
    host.cut()
    try:
        time.sleep(CUT_SECONDS)
    finally:
        host.restore()
    run.finish()
    require_equal(cluster, s3_flow, f"cut{attempt}", expected)


def test_servers_away_in_training(cluster, s3_flow, expected):
    """The S3 server, which holds tables, checkpoints and artifacts, and for 30 s the tracking server."""
    run = cluster.submit_training(s3_flow, f"{LAKE}/unserved")
    run.wait_for_line(IN_TRAINING)
    began = time.monotonic()
    cluster.tracking.server.kill()
    cluster.s3.kill()
    time.sleep(5)
    cluster.start_server(cluster.s3.start)
    time.sleep(max(0.0, began + 30 - time.monotonic()))
    cluster.tracking.server.start()
    run.finish()
    require_equal(cluster, s3_flow, "unserved", expected)


def test_hdfs_away_in_every_stage_equals_one_machine(cluster, expected, tmp_path):
    """The flow on HDFS. Its name node and data node are killed in three stages, for 20 s each time."""
    write_tickets(tmp_path)
    root = f"{cluster.hdfs.uri}/away"
    cluster.upload(tmp_path, f"{root}/raw")
    run = cluster.submit(root)
    for line in IN_WORK:
        run.wait_for_line(line)
        cluster.hdfs.kill()
        time.sleep(HDFS_SECONDS)
        cluster.start_server(cluster.hdfs.start)
    run.finish()
    require_same_rows(cluster.results(root), expected)


@pytest.mark.soak
def test_executor_killed_in_training(cluster, s3_flow, expected):
    run = cluster.submit_training(s3_flow, f"{LAKE}/executor_killed")
    run.wait_for_line(IN_TRAINING)
    cluster.spark.workers[0].restart()  # its executor ends with it
    run.finish()
    require_equal(cluster, s3_flow, "executor_killed", expected)
