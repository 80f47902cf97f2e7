"""Spark standalone: a master on one host, a worker with two slots on each of the others."""

import sys
from pathlib import Path

import pyspark

from tests.cluster.hosts import DISK, Daemon, Host
from tests.processes import SHORT_JVM

SPARK_HOME = Path(pyspark.__file__).parent
CHECKOUT = Path(__file__).resolve().parents[2]
SLOTS = 2
WORKER_TIMEOUT_SECONDS = 15
"""A worker that is silent for so long counts as lost; Spark's default is 60."""

CLEANING = " ".join(
    f"-Dspark.worker.cleanup.{option}" for option in ("enabled=true", "interval=60", "appDataTtl=60")
)
"""An application on S3 leaves copies of jars of 690 MB on each worker."""

PATIENCE = {
    # A host that is cut off is given up after 20 s, where Spark's default is 120 s.
    "spark.network.timeout": "20s",
    "spark.network.timeoutInterval": "5s",
    "spark.executor.heartbeatInterval": "4s",
}
SIZES = {
    "spark.driver.memory": "768m",
    "spark.executor.memory": "512m",
    "spark.executor.cores": str(SLOTS),
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.extraJavaOptions": SHORT_JVM,
    "spark.executor.extraJavaOptions": SHORT_JVM,
}


class Standalone:
    """A Spark master and its workers."""

    def __init__(self, head: Host, workers: list[Host], folder: Path) -> None:
        self.url = f"spark://{head.address}:7077"
        environment = {
            "SPARK_HOME": str(SPARK_HOME),
            "SPARK_DAEMON_MEMORY": "160m",
            "SPARK_DAEMON_JAVA_OPTS": f"{SHORT_JVM} -Dspark.worker.timeout={WORKER_TIMEOUT_SECONDS}",
        }
        program = [str(SPARK_HOME / "bin" / "spark-class"), "org.apache.spark.deploy"]
        self.master = Daemon(
            head,
            "spark-master",
            [
                program[0],
                f"{program[1]}.master.Master",
                "--host",
                head.address,
                "--port",
                "7077",
                "--webui-port",
                "0",
            ],
            folder=folder,
            environment=environment,
            is_ready=lambda daemon: "elected leader" in daemon.output(),
        )
        sizes = ["--cores", str(SLOTS), "--memory", "1g", "--work-dir", f"{DISK}/work", "--webui-port", "0"]
        worker_options = f"{environment['SPARK_DAEMON_JAVA_OPTS']} {CLEANING}"
        self.workers = [
            Daemon(
                host,
                f"spark-{host.name}",
                # Without --host: Spark itself must find the address that its peers can reach.
                [program[0], f"{program[1]}.worker.Worker", *sizes, self.url],
                folder=folder,
                environment={**environment, "SPARK_DAEMON_JAVA_OPTS": worker_options},
                is_ready=lambda daemon: "Successfully registered with master" in daemon.output(),
            )
            for host in workers
        ]

    def start(self) -> None:
        self.master.start()
        for worker in self.workers:
            worker.launch()
        for worker in self.workers:
            worker.wait_until_ready()

    def submit(self, master: str | None = None) -> list[str]:
        """Words of spark-submit, up to its --conf."""
        return [str(SPARK_HOME / "bin" / "spark-submit"), "--master", master or self.url]

    @staticmethod
    def conf() -> dict[str, str]:
        return {
            **SIZES,
            **PATIENCE,
            # The checkout and its environment are installed on every host.
            "spark.pyspark.python": sys.executable,
            "spark.executorEnv.PYTHONPATH": str(CHECKOUT),
        }
