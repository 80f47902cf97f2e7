"""Hosts on one machine: each has its own network, name, processes, /etc/hosts and local disk.

A host is a set of Linux namespaces. The first host, `edge`, holds the bridge, to which every other host has a
cable (a veth pair) that can be cut. Nothing is created in the machine's own network, and no host reaches the
internet. Process 1 of `edge` reads a pipe from the tests: when they end, also by SIGKILL, the pipe closes,
process 1 ends, and the kernel ends every process of all hosts and removes their networks.

Needs root, `ip` (iproute2), `unshare` and `nsenter` (util-linux).
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.cluster.waiting import wait_for

NETWORK = "10.77.0"
DISK = Path("/mnt")
"""The local disk of each host: one path, another folder on each. The machine's own /mnt is not touched."""
BRIDGE = "bridge"
PROGRAMS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "mount": "mount"}


def find_missing_part() -> str | None:
    """What this machine lacks to make hosts, with the remedy; None = nothing."""
    if sys.platform != "linux":
        return f"hosts are Linux namespaces, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "hosts need root (network namespaces); run as root, for example in a virtual machine"
    for program, package in PROGRAMS.items():
        if not shutil.which(program):
            return f"hosts need the program {program}; install {package}, or run: make cluster-parts"
    words = ["unshare", "--pid", "--fork", "--mount", "--uts", "--net", "ip", "link", "add", "type", "bridge"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"hosts need namespaces and bridges, and the kernel refuses them: {tried.stderr.strip()}"
    return None


@dataclass(frozen=True, eq=False)
class Host:
    """One host. Its processes have DISK to themselves."""

    name: str
    address: str
    behind: Path
    """What the machine itself sees of the host's disk."""
    init: int
    """Process 1 of the host, as the machine numbers it."""
    edge: int
    """Process 1 of the host with the bridge."""
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    """What was started here, to be waited for at the end."""

    @property
    def prefix(self) -> list[str]:
        """Words before a command that run it on this host."""
        return enter(self.init)

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a process here: temporary files, caches and home lie on the host's own disk."""
        kept = ("PATH", "JAVA_HOME", "LANG", "LC_ALL", "PYTHONHASHSEED")
        here = {name: os.environ[name] for name in kept if name in os.environ}
        folders = {
            "TMPDIR": "tmp",
            "HOME": "home",
            "SPARK_LOCAL_DIRS": "spark",
            "DISTRIBUTARY_CACHE": "cache",
        }
        return {**here, **{name: str(DISK / folder) for name, folder in folders.items()}, **more}

    def run(self, *words: str, timeout: float = 60, **environment: str) -> str:
        """Output of a command on this host. Raises CalledProcessError if it fails."""
        ended = subprocess.run(
            [*self.prefix, *words],
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        if ended.returncode:
            raise subprocess.CalledProcessError(ended.returncode, words, ended.stdout)
        return ended.stdout

    @property
    def server_prefix(self) -> list[str]:
        """As `prefix`, but with the machine's name, files and process numbers: for the servers of
        tests/servers, which are signalled by number and keep their data in a folder of the machine."""
        return ["nsenter", "--target", str(self.init), "--net", "--"]

    @contextmanager
    def joined(self) -> Iterator[None]:
        """This thread, and what it starts, in the network of the host while the context lasts."""
        with open("/proc/thread-self/ns/net") as own, open(f"/proc/{self.init}/ns/net") as network:
            _set_network(network.fileno())
            try:
                yield
            finally:
                _set_network(own.fileno())

    def cut(self) -> None:
        """Pull the network cable. Connections stay open on both ends, as when a switch fails."""
        self._set_link("down")

    def restore(self) -> None:
        """Plug the network cable in again."""
        self._set_link("up")

    def _set_link(self, state: str) -> None:
        subprocess.run([*enter(self.edge), "ip", "link", "set", f"to-{self.name}", state], check=True)


class Daemon:
    """A server process on a host. Its output is appended to one log; it may be killed and started again."""

    def __init__(
        self,
        host: Host,
        name: str,
        words: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        is_ready: Callable[["Daemon"], bool] = lambda daemon: True,
        ready_seconds: float = 90,
    ) -> None:
        self.host, self.name, self.words = host, name, list(words)
        self.log = folder / f"{name}.log"
        self._environment, self._is_ready, self._ready_seconds = (
            dict(environment or {}),
            is_ready,
            ready_seconds,
        )
        self._folder = folder
        self._started: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> "Daemon":
        """Start the process and return when it is ready. Raises AssertionError with the end of its log."""
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> None:
        """Start the process and return at once."""
        assert not self.is_alive(), f"{self.name} already runs"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._started = subprocess.Popen(
                [*self.host.prefix, *self.words],
                env=self.host.environment(**self._environment),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.host.started.append(self._started)

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.is_alive(), f"{self.name} on {self.host.name} ended:\n{self.tail()}"
            return self._is_ready(self)

        wait_for(ready, self._ready_seconds, lambda: f"{self.name} is not ready:\n{self.tail()}")

    def output(self) -> str:
        """What the process printed since it was last started."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def is_alive(self) -> bool:
        return self._started is not None and self._started.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its children."""
        assert self._started is not None
        entered = psutil.Process(self._started.pid)
        for each in entered.children(recursive=True):
            each.send_signal(number)
        if number != signal.SIGSTOP:
            entered.send_signal(signal.SIGCONT)  # nsenter stops itself when its child is stopped

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        if self.is_alive():
            self.signal(signal.SIGKILL)
            assert self._started is not None
            self._started.wait(30)

    def wait(self, seconds: float) -> int:
        """Exit status of the process, which ends by itself. Raises AssertionError after `seconds`."""
        wait_for(lambda: not self.is_alive(), seconds, lambda: f"{self.name} still runs:\n{self.tail()}")
        assert self._started is not None
        return self._started.wait()

    def restart(self) -> None:
        self.kill()
        self.start()


class Network:
    """The hosts of one run of the tests; gone with `close`, or with the process of the tests."""

    def __init__(self, folder: Path, *, loopback_names: bool = False) -> None:
        self.folder, self._loopback_names = folder, loopback_names
        self.hosts: dict[str, Host] = {}
        self._inits: list[subprocess.Popen[bytes]] = []
        self.edge = self._add_edge()

    def close(self) -> None:
        """End every process of every host."""
        for init in self._inits:
            assert init.stdin is not None
            init.stdin.close()  # process 1 of edge ends, and the kernel ends all others
        for each in [*self._inits, *(each for host in self.hosts.values() for each in host.started)]:
            each.wait(30)

    def _add_edge(self) -> Host:
        init = self._start_init([])
        script = f"""
            ip link set lo up
            ip link add {BRIDGE} type bridge forward_delay 0
            ip address add {NETWORK}.1/24 dev {BRIDGE}
            ip link set {BRIDGE} up"""
        return self._furnish("edge", f"{NETWORK}.1", init, init, script)

    def add(self, name: str) -> Host:
        """A new host with a cable to the bridge. It is added before servers start: they read names once."""
        address, edge = f"{NETWORK}.{len(self.hosts) + 1}", self.edge.init
        init = self._start_init(enter(edge))
        # The cable is made in edge, which knows the process by another number than the machine.
        cable = f"""
            ip link add to-{name} type veth peer name eth0 netns {_pid_inside(init)}
            ip link set to-{name} master {BRIDGE} up"""
        _run_script(enter(edge), cable)
        script = f"""
            ip link set lo up
            ip address add {address}/24 dev eth0
            ip link set eth0 up"""
        return self._furnish(name, address, init, edge, script)

    def _start_init(self, prefix: list[str]) -> int:
        """Process 1 of a new host; the number by which the machine knows it."""
        own = ["--pid", "--fork", "--kill-child", "--mount", "--uts", "--net", "--propagation", "private"]
        # bash as process 1 buries orphans; `read` ends when the tests' end of the pipe closes.
        words = [*prefix, "unshare", *own, "bash", "-c", "mount -t proc proc /proc; echo ready; read -r"]
        started = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._inits.insert(0, started)
        assert started.stdout is not None
        assert started.stdout.readline() == b"ready\n", "unshare failed"
        started.stdout.close()
        return psutil.Process(started.pid).children(recursive=True)[-1].pid

    def _furnish(self, name: str, address: str, init: int, edge: int, script: str) -> Host:
        behind = self.folder / "hosts" / name
        for folder in ("tmp", "home", "spark", "cache"):
            (behind / folder).mkdir(parents=True, mode=0o777)
            (behind / folder).chmod(0o777)
        host = Host(name=name, address=address, behind=behind, init=init, edge=edge)
        self.hosts[name] = host
        _run_script(
            host.prefix,
            f"""{script}
            hostname {name}
            mount --bind {behind} {DISK}
            touch {DISK}/hosts
            mount --bind {DISK}/hosts /etc/hosts""",
        )
        for each in self.hosts.values():
            self._write_names(each)
        return host

    def _write_names(self, reader: Host) -> None:
        """/etc/hosts of one host. With `loopback_names`, its own name is a loopback address, as on Debian."""
        own = "127.0.1.1" if self._loopback_names else reader.address
        lines = ["127.0.0.1 localhost", f"{own} {reader.name}"]
        lines += [f"{each.address} {each.name}" for each in self.hosts.values() if each is not reader]
        (reader.behind / "hosts").write_text("\n".join(lines) + "\n")


def enter(init: int) -> list[str]:
    """Words before a command that run it in the namespaces of a process."""
    return ["nsenter", "--target", str(init), "--pid", "--mount", "--uts", "--net", "--"]


def _set_network(descriptor: int) -> None:
    """setns(2) for this thread; Python has it since 3.12."""
    new_network = 0x40000000  # CLONE_NEWNET
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, new_network):
        raise OSError(ctypes.get_errno(), "setns")


def _run_script(prefix: list[str], script: str) -> None:
    ended = subprocess.run([*prefix, "bash", "-ec", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{script}\n{ended.stderr}"


def _pid_inside(pid: int) -> int:
    """The number of a process inside the namespace around its own one."""
    fields = Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].splitlines()[0].split()
    return int(fields[-2])
