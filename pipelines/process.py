"""Does the process that began something still run? Sure on its own machine only; a kill leaves no word."""

import os
import platform
from contextlib import suppress
from pathlib import Path


def here() -> str:
    """This process, told apart from every other: boot and pid namespace of its machine, pid, start."""
    return f"{_machine()} {os.getpid()} {_start(os.getpid())}"


def is_gone(process: str) -> bool:
    """True if `process` ran on this machine and has ended; False if it runs, or ran elsewhere, where nobody here can look."""
    machine, pid, start = process.rsplit(" ", 2)
    if machine != _machine():
        return False
    try:
        # PermissionError: somebody else's process runs under this pid, perhaps a later one.
        with suppress(PermissionError):
            os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    return _start(int(pid)) not in (start, "")


def _machine() -> str:
    try:
        # Containers of one host share its boot, and may share its name; two with pids of their own differ in the namespace.
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _start(pid: int) -> str:
    """Clock ticks from boot to the start of a process; "ended" if it only waits to be reaped, empty if nobody says."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]
