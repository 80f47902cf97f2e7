"""The flow as a client of a Spark Connect server whose executors run on two hosts."""

import sys
from pathlib import Path

import pytest

from pipelines.machine import DELTA_JARS, jars_folder
from tests.cluster.cluster import conf_words
from tests.cluster.hosts import DISK, Daemon
from tests.cluster.spark import PATIENCE, SIZES, SPARK_HOME
from tests.cluster.test_flow import require_same_rows
from tests.conftest import write_tickets
from tests.connect.server import CONF

pytest.importorskip("grpc", reason="Spark Connect needs the extra [connect]")
pytestmark = [pytest.mark.cluster, pytest.mark.horovod]

PORT = 15002


@pytest.fixture
def server(cluster):
    """Address of a Connect server on the host of the master. It has Delta, and none of our code."""
    address = cluster.services.address
    own = {
        "spark.connect.grpc.binding.address": address,
        "spark.connect.grpc.binding.port": str(PORT),
        "spark.driver.host": address,
        "spark.sql.warehouse.dir": f"file://{DISK}/warehouse",
    }
    jars = ",".join(str(jars_folder() / name) for name in DELTA_JARS)
    words = [*cluster.spark.submit(), "--jars", jars, *conf_words({**SIZES, **PATIENCE, **CONF, **own})]
    daemon = Daemon(
        cluster.services,
        "connect-server",
        [*words, "--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"],
        folder=cluster.folder,
        # The server reads this variable, and not spark.pyspark.python.
        environment={
            "SPARK_HOME": str(SPARK_HOME),
            "SPARK_SCALA_VERSION": "2.13",
            "PYSPARK_PYTHON": sys.executable,
        },
        is_ready=lambda daemon: "Spark Connect server started at" in daemon.output(),
    ).start()
    try:
        yield f"sc://{address}:{PORT}"
    finally:
        daemon.kill()  # its executors end, and the slots are free for other tests


def test_flow_over_connect_equals_one_machine(cluster, server, expected, tmp_path):
    write_tickets(tmp_path)
    root = f"{cluster.hdfs.uri}/connected"
    cluster.upload(tmp_path, f"{root}/raw")
    words = [sys.executable, "-m", "jobs.run", *cluster.overrides(root), f"spark.remote={server}"]
    # A client without Java: one that tries to start a JVM fails.
    no_java = {"JAVA_HOME": "/nowhere", "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    cluster.launch(root, words, no_java).finish()
    require_same_rows(cluster.results(root), expected)
