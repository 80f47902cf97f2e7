"""A real HDFS: name node and data node, each in a JVM of its own, from Hadoop's minicluster jar."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

import pyspark

from pipelines.machine import find_java
from tests.processes import SHORT_JVM
from tests.servers.daemon import Daemon, fetch, free_port
from tests.servers.jars import find_jar

NAME_NODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATA_NODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"


class Hdfs:
    """One name node and one data node, which keep data and ports over stop, kill and start.

    `uri` is hdfs://HOST:PORT; `conf` is the folder for HADOOP_CONF_DIR. `name_node` and `data_node` can be
    stopped and started each for itself.
    """

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings`: properties for hdfs-site.xml beside those that the servers need."""
        self.uri, self.conf, self._folder, self._prefix = (
            f"hdfs://{host}:{free_port(host)}",
            folder / "conf",
            folder,
            prefix,
        )
        self._jmx = f"http://{host}:{free_port(host)}/jmx"
        for name in ("name", "data", "conf"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        write_xml(
            self.conf / "core-site.xml", {"fs.defaultFS": self.uri, "hadoop.tmp.dir": str(folder / "tmp")}
        )
        data_ports = {
            f"dfs.datanode.{name}": f"{host}:{free_port(host)}"
            for name in ("address", "http.address", "ipc.address")
        }
        site = {
            "dfs.namenode.name.dir": f"file://{folder}/name",
            "dfs.datanode.data.dir": f"file://{folder}/data",
            "dfs.namenode.http-address": self._jmx.split("/")[2],
            "dfs.replication": "1",
            "dfs.permissions.enabled": "false",
            "dfs.datanode.hostname": host,
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            # A data node that was killed counts as dead, and one that came back as alive, within seconds.
            "dfs.heartbeat.interval": "1s",
            "dfs.namenode.heartbeat.recheck-interval": "2000",
            "dfs.namenode.safemode.extension": "0",
            **data_ports,
            **(settings or {}),
        }
        write_xml(self.conf / "hdfs-site.xml", site)
        self.name_node = self._daemon("name node", NAME_NODE, self._is_up)
        self.data_node = self._daemon("data node", DATA_NODE, self._is_writable)

    def start(self) -> None:
        """Format the name node the first time, start both, and wait until files can be written."""
        if not (self._folder / "name" / "current").is_dir():
            done = subprocess.run(
                [*self._prefix, *self._java(NAME_NODE), "-format", "-force", "-nonInteractive"],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-2000:]
        self.name_node.start()
        self.data_node.start()

    def stop(self) -> None:
        self.data_node.stop()
        self.name_node.stop()

    def kill(self) -> None:
        self.data_node.kill()
        self.name_node.kill()

    def _java(self, program: str) -> list[str]:
        jars = Path(pyspark.__file__).parent / "jars"
        places = f"{self.conf}:{find_jar('servers', 'hadoop-client-minicluster')}:{jars}/*"
        options = ["-Xmx256m", *SHORT_JVM.split()]
        return [find_java().path, *options, "-cp", places, program]

    def _daemon(self, name: str, program: str, answers: object) -> Daemon:
        log = self._folder / f"{name.replace(' ', '-')}.log"
        return Daemon(name, self._java(program), log=log, answers=answers, prefix=self._prefix)

    def _is_up(self) -> bool:
        return self._ask("NameNodeInfo") is not None

    def _is_writable(self) -> bool:
        state, info = self._ask("FSNamesystemState"), self._ask("NameNodeInfo")
        return bool(state and info) and state["NumLiveDataNodes"] > 0 and not info["Safemode"]

    def _ask(self, bean: str) -> dict | None:
        """A bean of the name node's state; None if it does not answer."""
        try:
            beans = json.loads(fetch(f"{self._jmx}?qry=Hadoop:service=NameNode,name={bean}") or b"{}")
        except ValueError:  # an error page
            return None
        return next(iter(beans.get("beans", [])), None)


@contextmanager
def hdfs_cluster(folder: Path, **options: object) -> Iterator[Hdfs]:
    """An HDFS that runs while the context lasts; options as Hdfs."""
    hdfs = Hdfs(folder, **options)
    try:
        hdfs.start()
        yield hdfs
    finally:
        hdfs.kill()


def write_xml(path: Path, values: Mapping[str, str]) -> None:
    """A Hadoop configuration file."""
    properties = "".join(
        f"<property><name>{escape(name)}</name><value>{escape(value)}</value></property>\n"
        for name, value in values.items()
    )
    path.write_text(f"<configuration>\n{properties}</configuration>\n", encoding="utf-8")
