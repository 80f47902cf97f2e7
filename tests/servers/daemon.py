"""A server in a process of its own: ready when it answers, killed with the test process, log kept."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

READY_SECONDS = 120
"""A JVM starts in 5 s on a quiet machine and in a minute on a busy one."""


class Daemon:
    """One process that can be stopped, killed and started again with the same command.

    `prefix` is put before the command, such as ("ip", "netns", "exec", "host1"). Start it from the main
    thread: the system kills the process when the thread that started it ends.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        answers: Callable[[], bool],
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.log = name, log
        self._command = ["setpriv", "--pdeathsig", "KILL", "--", *prefix, *command]
        self._answers, self._env = answers, {**os.environ, **(env or {})}
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it answers. Raises RuntimeError with the end of its log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                self.kill()
                end = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                why = f"ended with status {status}" if status is not None else "does not answer"
                raise RuntimeError(f"{self.name} {why}; {self.log} ends with:\n{end}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End it as an administrator would (SIGTERM), after 20 s by force."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL): nothing in memory is saved."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Let it hang: connections are accepted by the system, and get no answer."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now. An address of another network namespace is not bound here: the port is
    free on every address of this machine."""
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            probe.bind(("", 0))
        return int(probe.getsockname()[1])


def fetch(url: str, *, seconds: float = 2) -> bytes | None:
    """The body of an HTTP answer, whatever its status; None without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        return error.read()
    except OSError:
        return None
