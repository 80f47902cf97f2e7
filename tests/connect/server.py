"""A Spark Connect server in a process of its own, as an administrator starts it: Delta, none of our code."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark

from pipelines.machine import DELTA_JARS, jars_folder

START_SECONDS = 120
CONF = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.connect.grpc.binding.address": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.ui.enabled": "false",
}


@contextmanager
def connect_server(folder: Path, *, master: str) -> Iterator[str]:
    """Address of a running server (sc://...); its log is server.log in `folder`, where it also works."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = Path(pyspark.__file__).parent
    conf = {
        **CONF,
        "spark.connect.grpc.binding.port": str(port),
        "spark.sql.warehouse.dir": str(folder / "spark-warehouse"),
    }
    command = [
        str(home / "bin" / "spark-submit"),
        *("--master", master, "--driver-memory", "1g"),
        *("--jars", ",".join(str(jars_folder() / name) for name in DELTA_JARS)),
        *(word for name, value in conf.items() for word in ("--conf", f"{name}={value}")),
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"),
    ]
    # No PYTHONPATH and another folder: workers find our package only if the client ships it.
    hidden = ("PYTHONPATH", "PYSPARK_SUBMIT_ARGS", "PYSPARK_GATEWAY_PORT", "SPARK_REMOTE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_SCALA_VERSION": "2.13", "SPARK_HOME": str(home)}
    environment["PYSPARK_PYTHON"] = sys.executable  # the server reads this variable, not spark.pyspark.python
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for_port(port, server, folder / "server.log")
            yield f"sc://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for_port(port: int, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert server.poll() is None, f"the server ended:\n{log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"no answer:\n{log.read_text()[-4000:]}"
            time.sleep(0.2)
