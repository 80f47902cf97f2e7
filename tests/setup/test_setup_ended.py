"""A set-up that receives a signal: its command ends too, or keeps the lock while it runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
JSON = '{"version": [3, 11, 7], "executable": "%s", "prefix": "/usr", "venv": true, "headers": true}'
SLOW_PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then echo '{probe}'; exit; fi
echo $$ > {pid}.part; mv {pid}.part {pid}; exec sleep 600
"""
SET_UP = """
import shutil, signal, sys, types
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
shutil.disk_usage = lambda place: types.SimpleNamespace(free=1e12)
from tools import setup
setup.CHECKOUT = Path(sys.argv[1])
sys.exit(setup.main([]))
"""
TAKE_LOCK = "import sys; from tools.lock import lock\nwith lock(sys.argv[1]): print('taken')"


@pytest.fixture
def machine(tmp_path):
    """A checkout without .venv, a Java, and a Python whose `-m venv` writes its process id to `pid` and then
    sleeps."""
    (tmp_path / "checkout" / "tools").mkdir(parents=True)
    for name in ("constraints.txt", "setup.cfg", "pyproject.toml", "tools/horovod.txt"):
        (tmp_path / "checkout" / name).touch()
    slow = SLOW_PYTHON.format(probe=JSON % (tmp_path / "python"), pid=tmp_path / "pid")
    for path, text in (
        ("python", slow),
        ("java/bin/java", "#!/bin/sh\necho 'openjdk version \"17.0.15\"'\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="ascii")
        (tmp_path / path).chmod(0o755)
    yield tmp_path
    if (tmp_path / "pid").exists() and alive(left := int((tmp_path / "pid").read_text())):
        os.kill(left, signal.SIGKILL)


def start(machine: Path, code: str, *words: str) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "DISTRIBUTARY_CACHE": str(machine / "cache"),
        "PYTHON": str(machine / "python"),
        "JAVA_HOME": str(machine / "java"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def started(machine: Path) -> tuple[subprocess.Popen[str], int]:
    """A set-up that is creating .venv, and the process id of the command that does it."""
    process = start(machine, SET_UP, str(machine / "checkout"))
    while not (machine / "pid").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process, int((machine / "pid").read_text())


def alive(pid: int) -> bool:
    """True if the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_also_ends_the_running_command(machine, number):
    process, child = started(machine)
    assert alive(child)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert "interrupted; run the same command again to continue" in errors
    wait_until(lambda: not alive(child))  # a killed process ends when it is scheduled next


def test_the_command_of_a_killed_set_up_keeps_its_lock(machine):
    process, child = started(machine)
    process.kill()
    process.communicate()
    (name,) = [path.name for path in (machine / "cache" / "locks").iterdir()]
    next_one = start(machine, TAKE_LOCK, name)
    line = next_one.stdout.readline()
    assert alive(child)
    os.kill(child, signal.SIGKILL)
    assert "waiting for another set-up" in line
    assert next_one.communicate()[0] == "taken\n"
