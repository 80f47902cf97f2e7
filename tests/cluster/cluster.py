"""A whole cluster: hosts `edge` (drivers), `services` (servers), `worker1` and `worker2`."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pipelines.machine import cache_folder
from tests.cluster.hosts import Daemon, Network
from tests.cluster.spark import CHECKOUT, Standalone
from tests.cluster.tracking import TrackingServer
from tests.cluster.waiting import wait_for
from tests.conftest import flow_overrides
from tests.servers.hdfs import Hdfs
from tests.servers.s3 import BUCKET, S3Server

RUN_SECONDS = 420
"""For one small flow: 90 s on a quiet machine of two cores."""
LAKE = f"s3a://{BUCKET}"
KEYS = {"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "secret"}


class Run:
    """`jobs.run` under spark-submit on the edge host."""

    def __init__(self, driver: Daemon) -> None:
        self.driver = driver
        driver.launch()

    def finish(self) -> str:
        """What the driver printed. Raises AssertionError with it if the run failed."""
        status = self.driver.wait(RUN_SECONDS)
        assert status == 0, f"status {status}:\n{self.driver.output()[-8000:]}"
        return self.driver.output()

    def wait_for_line(self, text: str) -> None:
        """Return as soon as the driver has printed `text`."""

        def printed() -> bool:
            assert self.driver.is_alive(), (
                f"ended before it printed {text!r}:\n{self.driver.output()[-8000:]}"
            )
            return text in self.driver.output()

        wait_for(printed, RUN_SECONDS, self.driver.tail)


class Cluster:
    """Hosts and servers that many tests share. HDFS starts when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = Network(folder)
        self.edge = self.network.edge
        self.services = self.network.add("services")
        self.workers = [self.network.add("worker1"), self.network.add("worker2")]
        self.spark = Standalone(self.services, self.workers, folder)
        with self.edge.joined():
            self.s3 = S3Server(
                folder / "s3",
                host=self.services.address,
                buckets=(BUCKET, "mlflow"),
                prefix=self.services.server_prefix,
            )
        self.tracking = TrackingServer(
            self.services, folder, s3=self.s3.endpoint, artifacts="s3://mlflow/artifacts"
        )
        self._hdfs: Hdfs | None = None
        self._num_runs = 0

    def start(self) -> None:
        self.start_server(self.s3.start)
        self.tracking.start()
        self.spark.start()

    def start_server(self, start: Callable[[], None]) -> None:
        """Start a server of tests/servers: this thread asks whether it is ready, so it joins the network."""
        with self.edge.joined():
            start()

    def close(self) -> None:
        self.s3.kill()
        if self._hdfs is not None:
            self._hdfs.kill()
        self.network.close()

    @property
    def hdfs(self) -> Hdfs:
        if self._hdfs is None:
            with self.edge.joined():
                self._hdfs = Hdfs(
                    self.folder / "hdfs", host=self.services.address, prefix=self.services.server_prefix
                )
            self.start_server(self._hdfs.start)
        return self._hdfs

    def environment(self) -> dict[str, str]:
        """What a driver's environment holds: the place of the code, and the keys of the bucket."""
        return {
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            # `make setup` has run on the machine of the driver; executors bring nothing of it.
            "DISTRIBUTARY_CACHE": str(cache_folder()),
            "AWS_ENDPOINT_URL": self.s3.endpoint,
            **KEYS,
        }

    def submit(
        self, root: str, *overrides: str, job: str = "run", conf: Mapping[str, str] | None = None
    ) -> Run:
        """A job of the small flow below `root`, submitted in client mode; its raw files lie at root/raw."""
        words = self.spark.submit()
        for name, value in {**self.spark.conf(), **(conf or {})}.items():
            words += ["--conf", f"{name}={value}"]
        words += [str(CHECKOUT / "jobs" / f"{job}.py"), *self.overrides(root), *overrides]
        self._num_runs += 1
        name = f"driver-{self._num_runs}-{root.rpartition('/')[2]}"
        return Run(Daemon(self.edge, name, words, folder=self.folder, environment=self.environment()))

    def submit_training(self, flow: str, name: str, conf: Mapping[str, str] | None = None) -> Run:
        """The stages from finetune on, once more, on the tables of the run `flow`; results at LAKE/name."""
        own = [
            f"finetune.folder={LAKE}/{name}/lake/finetune",
            f"scoring.predictions={LAKE}/{name}/lake/predictions",
        ]
        return self.submit(flow, *own, *self.names(name), conf=conf)

    def overrides(self, root: str) -> list[str]:
        kept = [each for each in flow_overrides(Path("/")) if not each.startswith(("tracking.", "spark="))]
        placed = [
            each.replace("path: //raw", f"path: {root}/raw").replace("root=//", f"root={root}/")
            for each in kept
        ]
        own = [f"storage.s3.endpoint={self.s3.endpoint}", f"tracking.uri={self.tracking.uri}"]
        return [*placed, *own, "tracking.artifacts=null", *self.names(root.rpartition("/")[2]), "spark={}"]

    def names(self, name: str) -> list[str]:
        return [f"tracking.experiment={name}", f"registry.name={name}"]

    def upload(self, source: Path, target: str) -> None:
        """Copy the files of a local folder to a folder on the cluster's storage."""
        self._python("tests.cluster.upload", str(source), target)

    def results(self, root: str, *, tables: str | None = None, name: str = "") -> dict[str, object]:
        """What a run left, see tests.cluster.results. `tables`: root of the tables that it only read; `name`:
        of its experiment and model, if it is not the last part of root."""
        words = [root, tables or root, self.tracking.uri, name or root.rpartition("/")[2]]
        return dict(json.loads(self._python("tests.cluster.results", *words).splitlines()[-1]))

    def _python(self, module: str, *words: str) -> str:
        """Output of a module of the checkout on the edge host."""
        return self.edge.run(sys.executable, "-m", module, *words, timeout=180, **self.environment())
