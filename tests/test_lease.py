"""Leases between real processes; the clock is never waited for, the file is made older instead."""

import json
import os
import time

import pytest

from pipelines import process
from pipelines.lease import DEAD_SECONDS, LEASE, Lease
from pipelines.storage import Folder
from tests.registry.conftest import eventually, other_process

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


def held_elsewhere(folder, *, age_seconds):
    folder.write(LEASE, json.dumps({**ELSEWHERE, "renewed_at": time.time() - age_seconds}).encode())


def test_a_second_driver_is_refused_until_the_first_ends(folder):
    refusal = rf"training is in use by process {os.getpid()} on .*, renewed \d+ s ago; wait until it ends, or stop it: 60 s after"
    with Lease(folder) as lease, pytest.raises(RuntimeError, match=refusal), Lease(folder):
        pass
    lease.require()
    assert folder.names() == []
    with Lease(folder):
        assert folder.names() == [LEASE]


def test_the_lease_of_a_killed_driver_of_this_machine_is_free_at_once(folder):
    with other_process(HOLD.format(folder=folder.path)) as (said, driver):
        assert said == "held"
        with pytest.raises(RuntimeError, match=f"in use by process {driver.pid} on "), Lease(folder):
            pass
        driver.kill()
        driver.wait()
        with Lease(folder) as lease:
            lease.require()


def test_the_lease_of_another_machine_is_free_when_it_was_not_renewed_for_a_minute(folder):
    held_elsewhere(folder, age_seconds=DEAD_SECONDS - 30)
    with (
        pytest.raises(RuntimeError, match=r"in use by process 7 on node-7, renewed \d+ s ago"),
        Lease(folder),
    ):
        pass
    held_elsewhere(folder, age_seconds=DEAD_SECONDS + 1)
    with Lease(folder):
        assert json.loads(folder.read(LEASE))["process"] == process.here()


def test_a_driver_that_lost_its_lease_stops_and_leaves_the_others(folder):
    with Lease(folder, renew_seconds=0.01) as lease:
        held_elsewhere(folder, age_seconds=0)
        eventually(lambda: lease._taken_by is not None)
        with pytest.raises(RuntimeError, match=r"taken over by process 7 on node-7.*run again"):
            lease.require()
    assert json.loads(folder.read(LEASE))["token"] == "other"


def test_a_fault_of_storage_is_told_and_the_next_renewal_tries_again(folder, tmp_path, caplog):
    with Lease(folder, renew_seconds=0.01) as lease:
        folder.delete(LEASE)
        (tmp_path / "training" / LEASE / "in the way").mkdir(parents=True)
        eventually(lambda: "is not renewed just now" in caplog.text)
        folder.delete(LEASE)
        eventually(lambda: folder.exists(LEASE))
        lease.require()
