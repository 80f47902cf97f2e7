"""Leases between real processes. No test waits for the clock: the lease file is made older instead."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines import process
from pipelines.lease import DEAD_SECONDS, LEASE, Lease, LeaseHeldError
from pipelines.storage import Folder
from tests.processes import other_process, wait_until

HOLD = """
import sys
from pipelines.lease import Lease
from pipelines.storage import Folder
lease = Lease(Folder({folder!r}))
lease.__enter__()
print("held", flush=True)"""
ELSEWHERE = {"token": "other", "process": "another-boot/pid:[1] 7 1", "host": "node-7", "pid": 7}


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path / "training"))


def write_other_lease(folder, *, age_seconds, token="other", name=LEASE):
    content = {**ELSEWHERE, "token": token, "renewed_at": time.time() - age_seconds}
    folder.write(name, json.dumps(content).encode())


def wait_with_lease(folder, content, seen):
    """Wait until `seen`. A renewal that has just looked overwrites the content: then it is written again."""

    def look():
        if folder.read(LEASE) != content:
            folder.write(LEASE, content)
        return seen()

    wait_until(look)


def is_lost(lease):
    try:
        lease.require()
    except RuntimeError:
        return True
    return False


def test_a_second_driver_is_refused_until_the_first_ends(folder):
    message = (
        rf"training is in use by process {os.getpid()} on .*, renewed \d+ s ago; .* or stop it: 60 s after"
    )
    with Lease(folder) as lease, pytest.raises(RuntimeError, match=message), Lease(folder):
        pass
    lease.require()
    assert folder.names() == []
    with Lease(folder):
        assert folder.names() == [LEASE]


def test_the_lease_of_a_killed_local_driver_is_free_at_once(folder):
    with other_process(HOLD.format(folder=folder.path)) as (said, driver):
        assert said == "held"
        with pytest.raises(RuntimeError, match=f"in use by process {driver.pid} on "), Lease(folder):
            pass
        driver.kill()
        driver.wait()
        with Lease(folder) as lease:
            lease.require()


def test_the_lease_of_another_machine_is_free_after_a_minute(folder):
    write_other_lease(folder, age_seconds=DEAD_SECONDS - 30)
    with (
        pytest.raises(RuntimeError, match=r"in use by process 7 on node-7, renewed \d+ s ago"),
        Lease(folder),
    ):
        pass
    write_other_lease(folder, age_seconds=DEAD_SECONDS + 1)
    with Lease(folder):
        assert json.loads(folder.read(LEASE))["process"] == process.identify_process()


def test_a_driver_that_looked_before_another_took_the_lease_is_refused(folder, monkeypatch):
    write_other_lease(folder, age_seconds=DEAD_SECONDS + 1)
    read, first = folder.read, Lease(folder)

    def read_and_wait(name):
        """What the late driver sees; then the first one takes the lease and deletes its claims."""
        found = read(name)
        monkeypatch.undo()
        first.__enter__()
        return found

    monkeypatch.setattr(folder, "read", read_and_wait)
    try:
        with pytest.raises(LeaseHeldError, match="in use by process"):
            Lease(folder).__enter__()
        first.require()
    finally:
        first.__exit__(None, None, None)


def test_a_driver_that_lost_its_lease_stops(folder):
    with Lease(folder, renew_seconds=0.01) as lease:
        other = json.dumps({**ELSEWHERE, "renewed_at": time.time()}).encode()
        wait_with_lease(folder, other, lambda: is_lost(lease))
        with pytest.raises(RuntimeError, match=r"taken over by process 7 on node-7.*run again"):
            lease.require()
    assert json.loads(folder.read(LEASE))["token"] == "other"


def test_a_storage_fault_is_logged_and_retried(folder, tmp_path, caplog):
    def put_a_folder_in_the_way():
        folder.delete(LEASE)
        try:
            (tmp_path / "training" / LEASE / "in the way").mkdir(parents=True)
        except OSError:  # a renewal was faster
            return False
        return True

    with Lease(folder, renew_seconds=0.01) as lease:
        wait_until(put_a_folder_in_the_way)
        wait_until(lambda: "could not be renewed" in caplog.text)
        folder.delete(LEASE)
        wait_until(lambda: folder.exists(LEASE))
        lease.require()


@pytest.mark.parametrize("content", [b'{"token": "ab', b"", b"[]", b'{"token": "other"}', b"\xff\xfe"])
def test_a_torn_read_does_not_end_the_renewal(folder, caplog, content):
    with Lease(folder, renew_seconds=0.01) as lease:
        wait_with_lease(folder, content, lambda: caplog.text.count("could not be renewed") >= 2)
        assert folder.read(LEASE) == content  # it may be another driver's, so it is not overwritten
        lease.require()
        folder.delete(LEASE)
        wait_until(lambda: folder.exists(LEASE))


def test_any_exception_in_the_renewal_is_retried(folder, monkeypatch, caplog):
    with Lease(folder, renew_seconds=0.01) as lease:
        read = folder.read
        monkeypatch.setattr(folder, "read", lambda name: {}["a fault of a library"])
        wait_until(lambda: "KeyError: 'a fault of a library'" in caplog.text)
        monkeypatch.setattr(folder, "read", read)
        folder.delete(LEASE)
        wait_until(lambda: folder.exists(LEASE))
        lease.require()


def test_a_driver_that_cannot_renew_stops_itself(folder, monkeypatch):
    def refuse(name, content):
        raise PermissionError("the token has expired")

    with Lease(folder, renew_seconds=0.01, dead_seconds=2.0) as lease:
        time.sleep(2.1)
        lease.require()  # renewed in time
        monkeypatch.setattr(folder, "write", refuse)
        wait_until(lambda: is_lost(lease))
        with pytest.raises(
            RuntimeError,
            match=r"driver\.json could not be renewed for \d+ s \(PermissionError: the token.*run again",
        ):
            lease.require()


def test_a_driver_stops_when_storage_never_answers(folder, monkeypatch, caplog):
    answer = threading.Event()
    with Lease(folder, renew_seconds=0.01, dead_seconds=0.1) as lease:
        monkeypatch.setattr(folder, "read", lambda name: answer.wait(60) and None)
        wait_until(lambda: is_lost(lease))
        with pytest.raises(RuntimeError, match="storage does not answer"):
            lease.require()
        left_at = time.monotonic()
    assert time.monotonic() - left_at < 20  # it does not wait for the storage
    assert "could not be removed (storage does not answer)" in caplog.text
    answer.set()


def test_an_unreadable_lease_is_refused_with_the_remedy(folder):
    folder.write(LEASE, b"half a le")
    with (
        pytest.raises(RuntimeError, match=r"driver\.json cannot be read .* delete the file and run again"),
        Lease(folder),
    ):
        pass


@pytest.mark.parametrize("before", ["nothing", "a dead driver's lease", "a takeover that was killed"])
def test_of_drivers_at_once_one_gets_the_lease(folder, monkeypatch, before):
    if before != "nothing":
        write_other_lease(folder, age_seconds=DEAD_SECONDS + 1)
    if before == "a takeover that was killed":
        write_other_lease(folder, age_seconds=DEAD_SECONDS + 1, token="rival", name="driver-after-other.json")
    num_drivers = 8
    everybody, looked, read = threading.Barrier(num_drivers), threading.local(), folder.read

    def read_together(name):
        """Every driver has looked before the first of them takes the lease."""
        try:
            return read(name)
        finally:
            if not hasattr(looked, "once"):
                looked.once = everybody.wait(30)

    def start(_):
        lease = Lease(folder)
        try:
            return lease.__enter__()
        except LeaseHeldError as held:
            return held

    monkeypatch.setattr(folder, "read", read_together)
    with ThreadPoolExecutor(num_drivers) as pool:
        outcomes = list(pool.map(start, range(num_drivers)))
    monkeypatch.undo()
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
    assert sum(isinstance(outcome, LeaseHeldError) for outcome in outcomes) == num_drivers - 1
    assert folder.names() == [LEASE]
    winner.require()
    winner.__exit__(None, None, None)
    assert folder.names() == []
