"""Hosts whose own name is 127.0.1.1 in their /etc/hosts, as Debian writes it: ranks meet all the same."""

import json

import pytest

from pipelines.machine import cache_folder
from tests.cluster.cluster import conf_words
from tests.cluster.hosts import Daemon, Network, find_missing_part
from tests.cluster.spark import CHECKOUT, Standalone

pytestmark = [pytest.mark.cluster, pytest.mark.horovod]


@pytest.fixture
def network(tmp_path):
    missing = find_missing_part()
    if missing:
        pytest.skip(missing)
    made = Network(tmp_path, loopback_names=True)
    yield made
    made.close()


def test_ranks_meet_on_hosts_named_as_loopback(network, tmp_path):
    workers = [network.add("worker1"), network.add("worker2")]
    assert workers[0].run("getent", "hosts", "worker1").split() == ["127.0.1.1", "worker1"]
    spark = Standalone(network.edge, workers, tmp_path)
    spark.start()
    words = [*spark.submit(), *conf_words(spark.conf()), str(CHECKOUT / "tests" / "cluster" / "ranks.py")]
    environment = {"PYTHONPATH": str(CHECKOUT), "DISTRIBUTARY_CACHE": str(cache_folder())}
    driver = Daemon(network.edge, "ranks", words, folder=tmp_path, environment=environment)
    driver.launch()
    assert driver.wait(240) == 0, driver.tail()
    # Spark's own messages stand around the line of the job.
    ranks = json.loads(next(line for line in driver.output().splitlines() if line.startswith("[[")))
    assert [rank[:3] for rank in ranks] == [[rank, 4, 10.0] for rank in range(4)]
    assert {(host, interface) for *_, host, interface in ranks} == {("worker1", "eth0"), ("worker2", "eth0")}
