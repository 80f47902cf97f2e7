"""Faults of a real cluster that a command must name before it works for hours, each within 15 s.

The time of a command that only prints its help is taken off: the start of Spark's launcher and of Python. On
a machine where that takes longer than START_SECONDS, the limit grows with it.
"""

import os
import subprocess
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.cluster import LAKE
from tests.cluster.installed import uninstalled
from tests.cluster.spark import CHECKOUT, SPARK_HOME
from tests.servers.s3 import refusing

pytestmark = pytest.mark.cluster

LIMIT_SECONDS, START_SECONDS = 15, 8
APPLICATION_SECONDS = 45
"""A start of Spark with its executors, which share the cores of this machine with all servers."""
SITE_PACKAGES = Path(sysconfig.get_path("purelib")).resolve()
NOBODY = "10.77.0.250"
"""An address of the network that no host has."""


@pytest.fixture(scope="module")
def start_seconds(cluster):
    """How long spark-submit takes to start a job that does nothing."""
    began = time.monotonic()
    cluster.submit(f"{LAKE}/help", "--help").finish()
    return time.monotonic() - began


@pytest.fixture
def fail(cluster, start_seconds):
    """A function that runs the flow, which must fail: (exit status, output). It must not take long."""

    def fail(root, *overrides, more_seconds=0, **options):
        began = time.monotonic()
        status, output = cluster.submit(root, *overrides, **options).fail()
        seconds = time.monotonic() - began - start_seconds
        print(f"{seconds:.1f} s after a start of {start_seconds:.1f} s")
        limit = LIMIT_SECONDS * max(1, start_seconds / START_SECONDS) + more_seconds
        assert seconds < limit, f"{seconds:.1f} s, limit {limit:.1f} s\n{output}"
        assert "Traceback" not in output
        return status, output

    return fail


def test_package_missing_on_one_executor_is_named(cluster, s3_flow, fail):
    host = cluster.workers[1]
    with uninstalled(host, "tokenizers", SITE_PACKAGES):
        # The check waits for as many executors as spark.executor.instances says.
        options = {"conf": {"spark.executor.instances": "2"}, "more_seconds": APPLICATION_SECONDS}
        status, output = fail(s3_flow, "corpus.rules.min_chars=2", **options)
    assert status == 78
    assert f"ImportError: executors cannot run the stages: {host.address}: tokenizers is missing" in output
    assert "remedy: make pack, and submit with --archives" in output
    assert f"{cluster.workers[0].address}: tokenizers" not in output


def test_too_few_slots_are_counted(s3_flow, fail):
    keys = ["corpus.rules.min_chars=2", "finetune.num_ranks=8", "finetune.wait_for_slots_seconds=5"]
    status, output = fail(s3_flow, *keys, more_seconds=5 + APPLICATION_SECONDS)
    assert status == 75
    assert "finetune.num_ranks is 8, but spark://" in output
    assert "runs 4 tasks at once; set finetune.num_ranks=4 or give Spark more executors" in output


def test_keys_that_the_store_refuses_are_named(cluster, fail):
    with ExitStack() as stack:
        with cluster.services.joined():
            endpoint = stack.enter_context(refusing(cluster.services.address))
        status, output = fail(f"{LAKE}/refused", f"storage.s3.endpoint={endpoint}")
    assert status == 78
    assert "correct the keys" in output


@pytest.mark.parametrize(
    ("root", "endpoint"),
    [(f"{LAKE}/nowhere", f"http://{NOBODY}:9000"), (f"hdfs://{NOBODY}:8020/nowhere", None)],
    ids=["s3", "hdfs"],
)
def test_storage_that_nobody_serves_is_named(fail, root, endpoint):
    status, output = fail(root, *([f"storage.s3.endpoint={endpoint}"] if endpoint else []))
    assert status == 75
    assert (endpoint or f"hdfs://{NOBODY}:8020") in output


def test_storage_that_accepts_and_is_silent_is_named(cluster, fail):
    cluster.s3.pause()
    try:
        status, output = fail(f"{LAKE}/silent")
    finally:
        cluster.s3.resume()
    assert status == 75
    assert cluster.s3.endpoint in output


def test_a_master_that_is_gone_is_named(s3_flow, fail):
    status, output = fail(s3_flow, "corpus.rules.min_chars=2", master=f"spark://{NOBODY}:7077")
    assert status == 75
    assert f"no Spark master answers at spark://{NOBODY}:7077" in output


def test_standalone_refuses_drivers_in_cluster_mode():
    """The README sends users to YARN and Kubernetes. If Spark learns it, this test tells us."""
    words = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", f"spark://{NOBODY}:7077"]
    words += ["--deploy-mode", "cluster", str(CHECKOUT / "jobs" / "run.py")]
    ended = subprocess.run(words, env=os.environ, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "Cluster deploy mode is currently not supported for python applications" in ended.stderr
