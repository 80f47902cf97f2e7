"""YARN: the pack brings what executors and a driver on the cluster need, and a missing pack is named.

The hosts of YARN have no Python environment, the containers no home, and the user no rights in HDFS but in
her own folder: see tests/cluster/yarn.py.
"""

import re

import pytest

from tests.cluster.test_flow import require_same_rows
from tests.cluster.yarn import HOME
from tests.conftest import write_tickets

pytestmark = [pytest.mark.cluster, pytest.mark.horovod]


@pytest.fixture
def upload(cluster, tmp_path):
    """A function that gives a new root in HDFS, owned by the user, with the raw files of the small flow."""
    write_tickets(tmp_path)

    def upload(name: str) -> str:
        environment = cluster.yarn.environment()  # YARN and HDFS start here
        root = f"{cluster.hdfs.uri}{HOME}/{name}"
        cluster.upload(tmp_path, f"{root}/raw", **environment)
        return root

    return upload


def finish(cluster, run):
    """Wait for the driver; if it fails, show what the containers printed."""
    status = run.driver.wait(900)  # a node unpacks 43,830 files at first
    assert status == 0, f"status {status}:\n{run.driver.output()[-6000:]}\n{cluster.yarn.read_logs()}"
    return run.driver.output()


@pytest.mark.soak
@pytest.mark.parametrize("deploy_mode", ["client", "cluster"])
def test_flow_on_yarn_equals_one_machine(cluster, pack, expected, upload, deploy_mode):
    root = upload(f"yarn_{deploy_mode}")
    # hdfs:///... is in the file system that each machine's own core-site.xml names.
    named = root.replace(cluster.hdfs.uri, "hdfs://") if deploy_mode == "cluster" else root
    finish(cluster, cluster.submit_to_yarn(named, deploy_mode=deploy_mode, archive=pack))
    require_same_rows(cluster.results(root), expected)
    for host in cluster.nodes:
        copies = (host.behind / "tmp").glob("distributary-sequences-*/*/")
        assert [each for each in copies if "lock" not in each.name], f"no rank read its rows on {host.name}"


@pytest.mark.soak
def test_driver_on_yarn_with_nothing_to_do_succeeds(cluster, pack, upload):
    root = upload("documents")
    for said in ("corpus done:", "corpus up to date:"):
        run = cluster.submit_to_yarn(root, job="corpus", deploy_mode="cluster", archive=pack)
        assert "final status: SUCCEEDED" in finish(cluster, run)
        assert said in cluster.yarn.read_logs()


def test_executors_without_the_pack_are_named(cluster, upload):
    run = cluster.submit_to_yarn(upload("no_pack"), deploy_mode="client", archive=None)
    status, output = run.fail()
    assert status == 78, output + cluster.yarn.read_logs()
    assert re.search(r"ImportError: executors cannot run the stages: node[12]: its Python cannot run", output)
    assert "Cannot run program" in output
    assert "make pack and submit with --archives" in output
