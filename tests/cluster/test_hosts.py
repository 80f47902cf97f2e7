"""The hosts themselves: what is separate between them, and that nothing of them stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.hosts import DISK, Daemon, Network, find_missing_part
from tests.cluster.waiting import wait_for

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).parents[2]
LISTEN = "import socket; s = socket.create_server(('', 5000)); print('listening', flush=True); s.accept()"
CONNECT = "import socket; socket.create_connection(('{address}', 5000), timeout={seconds}).close()"


@pytest.fixture
def network(tmp_path):
    missing = find_missing_part()
    if missing:
        pytest.skip(missing)
    made = Network(tmp_path)
    yield made
    made.close()


def test_hosts_have_own_name_disk_and_processes(network):
    first, second = network.add("first"), network.add("second")
    assert [each.run("hostname").strip() for each in (network.edge, first, second)] == [
        "edge",
        "first",
        "second",
    ]
    first.run("sh", "-c", f"echo mine > {DISK}/note")
    with pytest.raises(subprocess.CalledProcessError, match="non-zero exit status"):
        second.run("cat", f"{DISK}/note")
    assert first.run("sh", "-c", "echo $$").strip() != str(os.getpid())
    assert second.run("getent", "hosts", "first").split() == [first.address, "first"]
    assert "10.77" not in subprocess.run(["ip", "address"], capture_output=True, text=True).stdout


def test_cut_cable_stops_traffic_until_restored(network, tmp_path):
    first, second = network.add("first"), network.add("second")
    server = [sys.executable, "-c", LISTEN]
    Daemon(
        first, "server", server, folder=tmp_path, is_ready=lambda daemon: "listening" in daemon.output()
    ).start()
    first.cut()
    with pytest.raises(subprocess.CalledProcessError):
        second.run(sys.executable, "-c", CONNECT.format(address=first.address, seconds=1))
    first.restore()
    second.run(sys.executable, "-c", CONNECT.format(address=first.address, seconds=10))


def test_daemons_pause_end_and_start_again(network, tmp_path):
    count = (
        "import itertools, time\nfor n in itertools.count():\n    print(n, flush=True)\n    time.sleep(0.05)"
    )
    daemon = Daemon(
        network.add("only"),
        "counter",
        [sys.executable, "-c", count],
        folder=tmp_path,
        is_ready=lambda d: "3" in d.output(),
    ).start()
    daemon.pause()
    time.sleep(0.2)
    printed = daemon.output()
    time.sleep(0.5)
    assert daemon.output() == printed
    daemon.resume()
    wait_for(lambda: daemon.output() != printed, 10)
    daemon.kill()
    assert not daemon.is_alive()
    daemon.start()
    assert daemon.output().startswith("0\n")


def test_nothing_stays_when_the_tests_are_killed(tmp_path):
    if find_missing_part():
        pytest.skip(find_missing_part())
    code = f"""
from pathlib import Path
from tests.cluster.hosts import Daemon, Network
network = Network(Path({str(tmp_path)!r}))
host = network.add("only")
Daemon(host, "sleeper", ["sleep", "987"], folder=Path({str(tmp_path)!r})).start()
print(network.edge.init, host.init, flush=True)
input()
"""
    tests = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    inits = [psutil.Process(int(pid)) for pid in tests.stdout.readline().split()]
    sleepers: list[psutil.Process] = []

    def find_sleepers():
        # The process is the program that enters the host until it becomes `sleep`.
        sleepers[:] = [
            each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == ["sleep", "987"]
        ]
        return bool(sleepers)

    wait_for(find_sleepers, 30)
    tests.send_signal(signal.SIGKILL)
    tests.communicate()
    _, alive = psutil.wait_procs([*inits, *sleepers], timeout=10)
    assert not alive
