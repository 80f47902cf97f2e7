"""Find out whether a process that started some work still runs. Only its own machine can answer: a killed
process leaves no message."""

import os
import platform
import signal
from contextlib import suppress
from pathlib import Path


def identify_process() -> str:
    """Identity of this process, different from every other: boot and pid namespace of its machine, pid, start
    time."""
    return f"{_machine()} {os.getpid()} {_start_time(os.getpid())}"


def has_ended(process: str) -> bool:
    """True if `process` (an identity) ran on this machine and has ended.

    False if it still runs, or if it ran on another machine, because this one cannot look there.
    """
    machine, pid, started_at = process.rsplit(" ", 2)
    if machine != _machine():
        return False
    try:
        # PermissionError: a process of another user has this pid, perhaps a later one.
        with suppress(PermissionError):
            os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    return _start_time(int(pid)) not in (started_at, "")


def is_local(process: str) -> bool:
    """Whether `process` (an identity) runs or ran on this machine."""
    return process.rsplit(" ", 2)[0] == _machine()


def send_signal(process: str, number: int) -> bool:
    """Send a signal to `process` (an identity); False if it does not run on this machine.

    Where the system can (Linux), another process that gets its pid at this moment is not hit.
    """
    if not is_local(process) or has_ended(process):
        return False
    pid = int(process.rsplit(" ", 2)[1])
    try:
        handle = _open_handle(pid)
        if handle is None:
            os.kill(pid, number)
            return True
        try:
            # Asked again: from here on, the handle is of the process or of a later one.
            if has_ended(process):
                return False
            signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _open_handle(pid: int) -> int | None:
    """A file descriptor of a process; None where the system has none, or a sandbox (seccomp) refuses it."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None


def _machine() -> str:
    try:
        # Containers of one host share its boot id and may share its name. Containers with their own pids have
        # another pid namespace.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _start_time(pid: int) -> str:
    """Clock ticks from boot to the start of a process; "ended" for a zombie; empty if the system does not
    say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]
