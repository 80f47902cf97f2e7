"""A whole cluster: hosts `edge` (drivers), `services` (servers), `worker1` and `worker2`, and what runs on them."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.machine import cache_folder
from tests.cluster.hosts import Daemon, Host, Network
from tests.cluster.spark import CHECKOUT, Standalone
from tests.cluster.tracking import TrackingServer
from tests.conftest import flow_overrides

BUCKET = "lake"
RUN_SECONDS = 480
"""For one small flow: 90 s on a quiet machine of two cores."""


class Run:
    """`jobs.run` as spark-submit on the edge host."""

    def __init__(self, cluster: "Cluster", root: str, words: Sequence[str]) -> None:
        name = f"driver-{len(list(cluster.folder.glob('driver-*.log')))}"
        self.cluster, self.root = cluster, root
        self.driver = Daemon(cluster.edge, name, words, folder=cluster.folder, environment=cluster.environment())

    def start(self) -> "Run":
        self.driver.launch()
        return self

    def finish(self) -> str:
        """What the driver printed. Raises AssertionError with it if the run failed."""
        status = self.driver.wait(RUN_SECONDS)
        assert status == 0, f"status {status}:\n{self.driver.output()}"
        return self.driver.output()

    def printed(self, text: str) -> bool:
        return text in self.driver.output()


class Cluster:
    """Hosts and servers that many tests share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = Network(folder)
        self.edge = self.network.edge
        self.services = self.network.add("services")
        self.workers = [self.network.add("worker1"), self.network.add("worker2")]
        self.spark = Standalone(self.services, self.workers, folder)
        self.s3 = make_s3(self.services, folder)
        self.s3_endpoint = f"http://{self.services.address}:9090"
        self.tracking = TrackingServer(self.services, folder, s3=self.s3_endpoint, artifacts="s3://mlflow/artifacts")

    def start(self) -> None:
        self.s3.launch()
        self.tracking.start()
        self.s3.wait_until_ready()
        self.spark.start()

    def close(self) -> None:
        self.network.close()

    def environment(self) -> dict[str, str]:
        """What a driver's environment holds: the place of the code and the keys of the bucket."""
        return {
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "PYSPARK_PYTHON": sys.executable,
            "DISTRIBUTARY_DEBUG": "1",
            # The drivers of the cluster run on a machine where `make setup` has run; executors bring nothing.
            "DISTRIBUTARY_CACHE": str(cache_folder()),
            **self.s3_environment(),
        }

    def s3_environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.s3_endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def run(self, root: str, *overrides: str, conf: Mapping[str, str] | None = None) -> Run:
        """The small flow below `root`, submitted in client mode; its raw files lie at root/raw."""
        words = self.spark.submit()
        for name, value in {**self.spark.conf(), **self.s3_conf(), **(conf or {})}.items():
            words += ["--conf", f"{name}={value}"]
        return Run(self, root, [*words, str(CHECKOUT / "jobs" / "run.py"), *self.overrides(root), *overrides])

    def overrides(self, root: str) -> list[str]:
        kept = [each for each in flow_overrides(root) if not each.startswith(("tracking.", "spark="))]
        name = root.rpartition("/")[2]
        return [*kept, f"tracking.uri={self.tracking.uri}", "tracking.artifacts=null", f"tracking.experiment={name}",
                f"registry.name={name}", "spark={}"]

    def s3_conf(self) -> dict[str, str]:
        jars = [str(jar) for jar in Path("/tmp/mvn/jars").glob("*.jar") if jar.name.startswith(("hadoop-aws", "bundle", "analytics"))]
        return {
            "spark.jars": ",".join(jars),
            "spark.hadoop.fs.s3a.endpoint": self.s3_endpoint,
            "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
            "spark.hadoop.fs.s3a.path.style.access": "true",
            "spark.hadoop.fs.s3a.access.key": "user",
            "spark.hadoop.fs.s3a.secret.key": "secret",
            **{f"spark.executorEnv.{name}": value for name, value in self.s3_environment().items()},
        }

    def upload(self, source: Path, target: str) -> None:
        """Copy the files of a local folder to a folder on the cluster's storage."""
        self.python("tests.cluster.upload", str(source), target)

    def results(self, root: str) -> dict[str, object]:
        """What a run left: see tests.cluster.results."""
        return json.loads(self.python("tests.cluster.results", root, self.tracking.uri).splitlines()[-1])

    def python(self, module: str, *words: str, timeout: float = 120) -> str:
        """Output of a module of the checkout on the edge host."""
        return self.edge.run(sys.executable, "-m", module, *words, timeout=timeout, **self.environment())


def make_s3(host: Host, folder: Path) -> Daemon:
    jar = "/tmp/mvn/jars/s3mock-4.9.1-exec.jar"
    mock = "com.adobe.testing.s3mock"
    settings = {
        "server.address": host.address, "server.port": "0", f"{mock}.httpPort": "9090",
        f"{mock}.store.root": "/mnt/s3", f"{mock}.store.retainFilesOnExit": "true", f"{mock}.store.initialBuckets": "lake,mlflow",
    }
    (host.behind / "s3").mkdir()
    return Daemon(
        host, "s3",
        ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", jar, *[f"--{n}={v}" for n, v in settings.items()]],
        folder=folder, is_ready=lambda daemon: "Started S3MockApplication" in daemon.output(),
    )
