import signal

from pipelines import process
from tests.registry.conftest import eventually, other_process

TELL = "print(process.here(), flush=True)"


def test_a_killed_process_is_gone_even_before_anyone_reaps_it():
    with other_process(TELL) as (name, running):
        assert not process.is_gone(name)
        running.send_signal(signal.SIGKILL)
        eventually(lambda: process.is_gone(name))  # nobody waits for it, so it stays a zombie
        running.wait()
        assert process.is_gone(name)


def test_a_later_process_with_the_same_pid_is_another_one():
    machine, pid, start = process.here().rsplit(" ", 2)
    assert not process.is_gone(process.here())
    assert process.is_gone(f"{machine} {pid} {int(start) - 1}")


def test_nobody_knows_of_a_process_of_another_machine():
    _, pid, _ = process.here().rsplit(" ", 2)
    assert not process.is_gone(f"another-boot/pid:[1] {pid} 1")
