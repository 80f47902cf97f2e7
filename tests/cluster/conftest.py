"""One cluster for all tests of this folder. It starts in 80 s on a machine of two cores."""

import os
import subprocess
import sys

import pytest

from tests.cluster import hosts, tracking
from tests.cluster.cluster import LAKE, Cluster
from tests.cluster.results import read_results
from tests.cluster.spark import CHECKOUT
from tests.cluster.yarn import PACK
from tests.conftest import write_tickets
from tests.servers.jars import require_jars


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    missing = hosts.find_missing_part() or tracking.find_missing_part()
    if missing:
        pytest.skip(missing)
    for group in ("s3", "servers"):
        require_jars(group)
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def expected(flow):
    """What the small flow leaves on one machine with local[2]."""
    uri = flow.settings.tree["tracking"]["uri"]
    return read_results(str(flow.folder), str(flow.folder), uri, "tickets")


@pytest.fixture(scope="session")
def s3_flow(cluster, tmp_path_factory):
    """Root of the small flow, run on the cluster with everything on S3."""
    return run_flow(cluster, f"{LAKE}/tickets", tmp_path_factory)


@pytest.fixture(scope="session")
def pack(cluster, tmp_path_factory):
    """The pack for CPUs as `make pack` makes it, in HDFS: its path there. 2.4 GB; 5 minutes on two cores."""
    folder = tmp_path_factory.mktemp("pack")
    command = [sys.executable, "-m", "tools.pack", "--cpu", "--output", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    subprocess.run(command, cwd=CHECKOUT, env=environment, check=True, timeout=900)
    (archive,) = folder.glob("*.tar.gz")
    cluster.yarn.run_hdfs(cluster.edge, "-put", str(archive), PACK)
    archive.unlink()
    return PACK


def run_flow(cluster, root, tmp_path_factory):
    raw = tmp_path_factory.mktemp("raw")
    write_tickets(raw)
    cluster.upload(raw, f"{root}/raw")
    cluster.submit(root).finish()
    return root
