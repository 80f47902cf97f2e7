"""Processes that run, that were killed, and that belong to another machine."""

import errno
import os
import signal

import pytest

from pipelines import process
from tests.processes import other_process, wait_until

PRINT_IDENTITY = "print(process.identify_process(), flush=True)"


def test_a_killed_process_has_ended_even_as_a_zombie():
    with other_process(PRINT_IDENTITY) as (identity, running):
        assert not process.has_ended(identity)
        running.send_signal(signal.SIGKILL)
        wait_until(lambda: process.has_ended(identity))  # not waited for, so it is a zombie
        running.wait()
        assert process.has_ended(identity)


def test_a_later_process_with_the_same_pid_is_another():
    machine, pid, start = process.identify_process().rsplit(" ", 2)
    assert not process.has_ended(process.identify_process())
    assert process.has_ended(f"{machine} {pid} {int(start) - 1}")


def test_a_process_of_another_machine_is_unknown():
    _, pid, _ = process.identify_process().rsplit(" ", 2)
    assert not process.has_ended(f"another-boot/pid:[1] {pid} 1")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfd")
@pytest.mark.parametrize("refusal", [errno.EPERM, errno.ENOSYS])
def test_a_signal_arrives_where_a_sandbox_refuses_handles(monkeypatch, refusal):
    def refuse(pid, flags=0):
        raise OSError(refusal, "refused")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with other_process(PRINT_IDENTITY) as (identity, running):
        assert process.send_signal(identity, signal.SIGTERM)
        assert running.wait(60) == -signal.SIGTERM
        assert not process.send_signal(identity, signal.SIGTERM)
