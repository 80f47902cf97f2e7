"""A whole cluster: hosts `edge` (drivers), `services` (servers), `worker1` and `worker2` (Spark standalone),
`node1` and `node2` (YARN)."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from pipelines.machine import cache_folder
from tests.cluster.hosts import Daemon, Network
from tests.cluster.spark import CHECKOUT, Standalone
from tests.cluster.tracking import TrackingServer
from tests.cluster.waiting import wait_for
from tests.cluster.yarn import Yarn
from tests.conftest import flow_overrides
from tests.servers.hdfs import Hdfs
from tests.servers.s3 import BUCKET, S3Server

RUN_SECONDS = 420
"""For one small flow: 90 s on a quiet machine of two cores."""
LAKE = f"s3a://{BUCKET}"
KEYS = {"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "secret"}


class Run:
    """A driver on the edge host: `jobs.run` under spark-submit, or a client of Spark Connect."""

    def __init__(self, driver: Daemon) -> None:
        self.driver = driver
        driver.launch()

    def finish(self) -> str:
        """What the driver printed. Raises AssertionError with it if the run failed."""
        status = self.driver.wait(RUN_SECONDS)
        assert status == 0, f"status {status}:\n{self.driver.output()[-8000:]}"
        return self.driver.output()

    def fail(self) -> tuple[int, str]:
        """Exit status and what the driver printed. Raises AssertionError if the run succeeded."""
        status = self.driver.wait(RUN_SECONDS)
        assert status != 0, self.driver.output()[-8000:]
        return status, self.driver.output()

    def wait_for_line(self, text: str) -> None:
        """Return as soon as the driver has printed `text`."""

        def printed() -> bool:
            assert self.driver.is_alive(), (
                f"ended before it printed {text!r}:\n{self.driver.output()[-8000:]}"
            )
            return text in self.driver.output()

        wait_for(printed, RUN_SECONDS, self.driver.tail)


class Cluster:
    """Hosts and servers that many tests share. HDFS and YARN start when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = Network(folder)
        self.edge = self.network.edge
        self.services = self.network.add("services")
        self.workers = [self.network.add("worker1"), self.network.add("worker2")]
        self.nodes = [self.network.add("node1"), self.network.add("node2")]
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
        self._yarn: Yarn | None = None
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
        self._remove_data()

    def _remove_data(self) -> None:
        """Only logs stay: all other files of HDFS, S3 and the hosts are 20 GB after all tests."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.suffix not in (".log", ".out") and path.name not in ("stdout", "stderr"):
                path.unlink()

    @property
    def hdfs(self) -> Hdfs:
        if self._hdfs is None:
            with self.edge.joined():
                self._hdfs = Hdfs(
                    self.folder / "hdfs",
                    host=self.services.address,
                    prefix=self.services.server_prefix,
                    settings={"dfs.permissions.enabled": "true"},
                )
            self.start_server(self._hdfs.start)
        return self._hdfs

    @property
    def yarn(self) -> Yarn:
        if self._yarn is None:
            self._yarn = Yarn(self.services, self.nodes, self.folder, self.hdfs)
            self._yarn.start(self.edge)
        return self._yarn

    def environment(self) -> dict[str, str]:
        """What a driver's environment holds: the place of the code, and of what `make setup` brought.
        Executors bring nothing of it."""
        return {
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "DISTRIBUTARY_CACHE": str(cache_folder()),
        }

    def bucket(self) -> dict[str, str]:
        """What reaches the S3 server. A driver without it ships no jars of s3a, which have 690 MB."""
        return {"AWS_ENDPOINT_URL": self.s3.endpoint, **KEYS}

    def submit(
        self,
        root: str,
        *overrides: str,
        job: str = "run",
        conf: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        master: str | None = None,
    ) -> Run:
        """A job of the small flow below `root`, submitted in client mode; its raw files lie at root/raw."""
        words = [*self.spark.submit(master), *conf_words({**self.spark.conf(), **(conf or {})})]
        words += [str(CHECKOUT / "jobs" / f"{job}.py"), *self.overrides(root), *overrides]
        return self.launch(root, words, environment or {})

    def submit_to_yarn(
        self, root: str, *overrides: str, deploy_mode: str, archive: str | None, job: str = "run"
    ) -> Run:
        """The same on YARN, with the Python of an archive in HDFS; None = with none.

        A driver on the cluster gets its configuration as a file: YARN removes }} from arguments.
        """
        words = self.yarn.submit(deploy_mode=deploy_mode, archive=archive)
        words += conf_words(self.yarn.read_conf(deploy_mode))
        keys = [*self.overrides(root), *overrides]
        if deploy_mode == "cluster":
            file = self.folder / f"{root.rpartition('/')[2]}.yaml"
            file.write_text(to_yaml(keys))
            words, keys = [*words, "--files", str(file)], ["--config", file.name]
        words += [str(CHECKOUT / "jobs" / f"{job}.py"), *keys]
        return self.launch(root, words, self.yarn.environment())

    def launch(self, root: str, words: list[str], environment: Mapping[str, str]) -> Run:
        """A driver on the edge host; its log is named by the last part of root."""
        self._num_runs += 1
        name = f"driver-{self._num_runs}-{root.rpartition('/')[2]}"
        bucket = self.bucket() if root.startswith("s3a:") else {}
        variables = {**self.environment(), **bucket, **environment}
        return Run(Daemon(self.edge, name, words, folder=self.folder, environment=variables))

    def submit_training(self, flow: str, target: str, conf: Mapping[str, str] | None = None) -> Run:
        """The stages from finetune on, once more, on the tables of the run `flow`; results below `target`."""
        own = [f"finetune.folder={target}/lake/finetune", f"scoring.predictions={target}/lake/predictions"]
        return self.submit(flow, *own, *self.names(target.rpartition("/")[2]), conf=conf)

    def overrides(self, root: str) -> list[str]:
        kept = [each for each in flow_overrides(Path("/")) if not each.startswith(("tracking.", "spark="))]
        placed = [
            each.replace("path: //raw", f"path: {root}/raw").replace("root=//", f"root={root}/")
            for each in kept
        ]
        own = [f"storage.s3.endpoint={self.s3.endpoint}"] if root.startswith("s3a:") else []
        own += [f"tracking.uri={self.tracking.uri}", "tracking.artifacts=null"]
        return [*placed, *own, *self.names(root.rpartition("/")[2]), "spark={}"]

    def names(self, name: str) -> list[str]:
        return [f"tracking.experiment={name}", f"registry.name={name}"]

    def upload(self, source: Path, target: str, **environment: str) -> None:
        """Copy the files of a local folder to a folder on the cluster's storage."""
        self._python("tests.cluster.upload", str(source), target, **environment)

    def results(self, root: str, *, tables: str | None = None, name: str = "") -> dict[str, object]:
        """What a run left, see tests.cluster.results. `tables`: root of the tables that it only read; `name`:
        of its experiment and model, if it is not the last part of root."""
        words = [root, tables or root, self.tracking.uri, name or root.rpartition("/")[2]]
        return dict(json.loads(self._python("tests.cluster.results", *words).splitlines()[-1]))

    def _python(self, module: str, *words: str, **environment: str) -> str:
        """Output of a module of the checkout on the edge host."""
        variables = {**self.environment(), **self.bucket(), **environment}
        return self.edge.run(sys.executable, "-m", module, *words, timeout=180, **variables)


def to_yaml(overrides: Sequence[str]) -> str:
    """The file that says what KEY=VALUE on the command line says; later keys win."""
    tree = OmegaConf.create({})
    for each in overrides:
        key, _, value = each.partition("=")
        OmegaConf.update(tree, key, yaml.safe_load(value))
    return OmegaConf.to_yaml(tree)


def conf_words(conf: Mapping[str, str]) -> list[str]:
    return [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
