"""YARN as an administrator runs it: a resource manager, and two hosts with Java, Spark and a node manager.

These hosts have no Python environment: the checkout, its .venv and the Python under it are hidden there. What
runs on them came with the application. Node managers and containers belong to an ordinary user of the
machine, whose home (/home/, YARN's default) cannot be written. In HDFS the applications belong to USER, whom
the servers give nothing but a home.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from pipelines.machine import find_java, jars_folder
from tests.cluster.hosts import DISK, Daemon, Host
from tests.cluster.installed import hide, provide
from tests.cluster.spark import CHECKOUT, SIZES, SPARK_HOME
from tests.cluster.tracking import as_user
from tests.processes import SHORT_JVM
from tests.servers.hdfs import Hdfs, write_xml
from tests.servers.jars import require_jars

USER = "ana"
HOME = f"/user/{USER}"
"""Her folder in HDFS, the only one that she can write."""
PACK = "/envs/pack.tar.gz"
"""Where the pack lies in HDFS: everybody can read it, so that each node unpacks it once for all."""
NODE_MEGABYTES = 7168
"""One executor (4096 after rounding) beside the driver (3072), but never two executors on one node."""
CONTAINERS = {
    # Heap and Python workers share a container: 0.9 GB for each of two slots, and the driver's Python.
    "spark.executor.memoryOverhead": "3g",
    "spark.driver.memoryOverhead": "2g",
    "spark.executor.instances": "2",
    "spark.yarn.maxAppAttempts": "1",
    "spark.yarn.am.waitTime": "300s",  # on a busy machine, Python imports for minutes
    # A node that has just unpacked the pack comes late.
    "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    "spark.scheduler.maxRegisteredResourcesWaitingTime": "600s",
    # Spark is installed on every node, so its jars are not uploaded for each application.
    "spark.yarn.jars": f"local:{DISK}/opt/spark/jars/*",
}
LOGGING = """\
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
"""


class Yarn:
    """A resource manager on one host, and a node manager on each of the others."""

    def __init__(self, head: Host, nodes: list[Host], folder: Path, hdfs: Hdfs) -> None:
        self.conf, self._hdfs, self._nodes = folder / "yarn-conf", hdfs, nodes
        self._java_home = str(Path(find_java().path).resolve().parents[1])
        self._configure(head.address)
        for host in nodes:
            shutil.copytree(self.conf, host.behind / "conf")
            (host.behind / "yarn").mkdir()
            (host.behind / "yarn").chmod(0o777)
            provide(host, SPARK_HOME, "spark")
            provide(host, jars_folder(), "jars")
            for each in find_environment():
                hide(host, each)
        self.manager = Daemon(
            head,
            "yarn-manager",
            self._java("resourcemanager.ResourceManager", self.conf, jars_folder(), SPARK_HOME),
            folder=folder,
            is_ready=lambda daemon: "Transitioned to active state" in daemon.output(),
        )
        program = self._java("nodemanager.NodeManager", DISK / "conf", DISK / "opt/jars", DISK / "opt/spark")
        self.node_managers = [
            Daemon(
                host,
                f"yarn-{host.name}",
                as_user(*program),
                folder=folder,
                # What every container inherits.
                environment={"JAVA_HOME": self._java_home, "HADOOP_CONF_DIR": f"{DISK}/conf"},
                is_ready=lambda daemon: "Registered with ResourceManager as" in daemon.output(),
            )
            for host in nodes
        ]

    def start(self, edge: Host) -> None:
        self.manager.start()
        for each in self.node_managers:
            each.launch()
        for each in self.node_managers:
            each.wait_until_ready()
        self.run_hdfs(edge, "-mkdir", "-p", HOME, str(Path(PACK).parent))
        self.run_hdfs(edge, "-chown", USER, HOME)

    def run_hdfs(self, host: Host, *words: str) -> str:
        """Output of `hdfs dfs`, as the user of the servers."""
        program = ["org.apache.hadoop.fs.FsShell", *words]
        return host.run(*self._command(self.conf, jars_folder(), SPARK_HOME), *program, timeout=300)

    def submit(self, *, deploy_mode: str, archive: str | None) -> list[str]:
        """Words of spark-submit, up to its --conf; `archive` in HDFS becomes the Python of the executors."""
        words = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", "yarn", "--deploy-mode", deploy_mode]
        return [*words, *(["--archives", f"{self._hdfs.uri}{archive}#environment"] if archive else [])]

    @staticmethod
    def read_conf(deploy_mode: str) -> dict[str, str]:
        # In cluster mode the driver's Python must be named: spark-submit knows nothing of the pack.
        driver = {"spark.pyspark.python": "./environment/bin/python"} if deploy_mode == "cluster" else {}
        return {**SIZES, **CONTAINERS, **driver}

    def environment(self) -> Mapping[str, str]:
        """Beside that of every driver: the cluster, the user, and the environment as if it were activated."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"HADOOP_CONF_DIR": str(self.conf), "HADOOP_USER_NAME": USER, "PATH": path}

    def read_logs(self) -> str:
        """The ends of what the containers of the last application printed."""
        logs = [(host.behind / "yarn" / "logs").glob("application_*") for host in self._nodes]
        newest = max((each.name for folder in logs for each in folder), default="none")
        files = [
            file
            for host in self._nodes
            for file in sorted((host.behind / "yarn" / "logs" / newest).rglob("std*"))
        ]
        return "\n".join(f"== {file}\n{file.read_text(errors='replace')[-40000:]}" for file in files)

    def _java(self, program: str, conf: Path, jars: Path, spark: Path) -> list[str]:
        return [*self._command(conf, jars, spark), f"org.apache.hadoop.yarn.server.{program}"]

    def _command(self, conf: Path, jars: Path, spark: Path) -> list[str]:
        servers = [
            f"{jars}/{jar.name}" for jar in require_jars("servers") if not jar.name.startswith("s3mock")
        ]
        # Without its native library, Hadoop starts a chmod for each of the 43,830 files of the pack.
        options = [*SHORT_JVM.split(), "-Xmx256m", "-Djdk.lang.Process.launchMechanism=VFORK"]
        options.append(f"-Djava.io.tmpdir={DISK}/tmp")
        places = ":".join([str(conf), *servers, f"{spark}/jars/*"])
        return [f"{self._java_home}/bin/java", *options, "-cp", places]

    def _configure(self, address: str) -> None:
        """Write the folder of settings that servers and clients share."""
        self.conf.mkdir()
        (self.conf / "log4j2.properties").write_text(LOGGING)
        core = {"fs.defaultFS": self._hdfs.uri, "hadoop.tmp.dir": f"{DISK}/tmp"}
        write_xml(self.conf / "core-site.xml", core)
        write_xml(self.conf / "hdfs-site.xml", {"dfs.replication": "1"})
        node = "yarn.nodemanager"
        site = {
            "yarn.resourcemanager.hostname": address,
            f"{node}.local-dirs": f"{DISK}/yarn/local",
            f"{node}.log-dirs": f"{DISK}/yarn/logs",
            f"{node}.resource.memory-mb": str(NODE_MEGABYTES),
            f"{node}.resource.cpu-vcores": "4",
            f"{node}.vmem-check-enabled": "false",  # a JVM reserves far more addresses than memory
            f"{node}.disk-health-checker.max-disk-utilization-per-disk-percentage": "99",
            # Hosts share the machine's /tmp; each has a folder of its own for this.
            f"{node}.admin-env": f"TMPDIR={DISK}/tmp",
        }
        write_xml(self.conf / "yarn-site.xml", site)
        queues = {
            "root.queues": "default",
            "root.default.capacity": "100",
            "maximum-am-resource-percent": "1.0",
        }
        prefix = "yarn.scheduler.capacity"
        write_xml(
            self.conf / "capacity-scheduler.xml", {f"{prefix}.{key}": each for key, each in queues.items()}
        )


def find_environment() -> list[Path]:
    """The folders that hold the Python environment of this process. The system's own Python stays."""
    found = [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), CHECKOUT]
    return [folder for folder in dict.fromkeys(found) if folder not in (Path("/usr"), Path("/usr/local"))]
