"""Hosts, servers and executors fail while a training runs: the result is that of an undisturbed run, once."""

import time

import pytest

from tests.cluster.cluster import LAKE
from tests.cluster.test_flow import require_same_rows

pytestmark = [pytest.mark.cluster, pytest.mark.horovod]

IN_TRAINING = "step 0: test:"
"""The first line that ranks cause; about 10 s before the end of the training."""
CUT_SECONDS = 40
"""Longer than spark.network.timeout of the cluster: the driver gives the host up."""


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


def test_tracking_server_away_for_30_seconds(cluster, s3_flow, expected):
    run = cluster.submit_training(s3_flow, f"{LAKE}/untracked")
    run.wait_for_line(IN_TRAINING)
    cluster.tracking.server.kill()
    time.sleep(30)
    cluster.tracking.server.start()
    run.finish()
    require_equal(cluster, s3_flow, "untracked", expected)


def test_storage_killed_and_started_again(cluster, s3_flow, expected):
    run = cluster.submit_training(s3_flow, f"{LAKE}/unstored")
    run.wait_for_line(IN_TRAINING)
    cluster.s3.kill()
    time.sleep(5)
    cluster.start_server(cluster.s3.start)
    run.finish()
    require_equal(cluster, s3_flow, "unstored", expected)


def test_executor_killed_in_training(cluster, s3_flow, expected):
    run = cluster.submit_training(s3_flow, f"{LAKE}/executor_killed")
    run.wait_for_line(IN_TRAINING)
    cluster.spark.workers[0].restart()  # its executor ends with it
    run.finish()
    require_equal(cluster, s3_flow, "executor_killed", expected)
