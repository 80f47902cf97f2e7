"""Find out whether a process that started some work still runs. Only its own machine can answer: a killed
process leaves no message."""

import os
import platform
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
