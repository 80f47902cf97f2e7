"""Helpers for tests with other processes and threads. Imports no heavy package."""

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SHORT_JVM = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
"""Options of a JVM that lives for seconds. It compiles code once, and does not verify the classes of jars,
whose checksums `make setup` has verified: a fifth of the CPU time of a start of Spark's launcher."""


@contextmanager
def other_process(code):
    """Start a Python process that runs `code`, which prints a line and waits. Yields (line, process)."""
    script = f"from pipelines import process\n{code}\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    ) as started:
        try:
            yield started.stdout.readline().strip(), started
        finally:
            started.kill()


def wait_until(happened):
    """Wait until another thread or process makes `happened()` true; fail after a minute."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)
