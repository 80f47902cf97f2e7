"""Run long commands: output goes to a log, progress to the screen, and an error says how to fix it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import List, Mapping, Optional, Sequence

HEARTBEAT_SECONDS = 5.0
TAIL_LINES = 25

NO_INDEX = (
    "the package index cannot be reached: check the network, the proxy variables and pip's configuration"
)

# Pattern in the last lines of a log -> what to do. The first match counts.
REMEDIES = (
    (r"No space left on device", "free some disk space: the set-up needs about 10 GB"),
    (
        r"Killed signal terminated program|fatal error: Killed",
        "the compiler ran out of memory: set DISTRIBUTARY_BUILD_JOBS=1",
    ),
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES|does not match the expected sha256",
        "a file differs from its checksum: report it, do not change the checksum",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|UnknownIssuer|invalid peer certificate|PKIX path building failed",
        "a proxy replaces TLS certificates: set SSL_CERT_FILE and PIP_CERT to its certificate bundle",
    ),
    (r"name resolution|dns error|Network is unreachable|Connection refused", NO_INDEX),
    (r"Could not fetch URL|Failed to fetch|download fail", NO_INDEX),
)


class SetupError(Exception):
    """The set-up cannot continue. The message says what failed and how to fix it."""


_printed_at = time.monotonic()
lock_descriptors: List[int] = []
"""File descriptors of the locks held. Every command inherits them, so that a lock outlives this process if
the command does."""


def say(text: str) -> None:
    """Print one line and flush."""
    global _printed_at
    print(f"  {text}", flush=True)
    _printed_at = time.monotonic()


def format_clock(seconds: float) -> str:
    """0:01:20 for 80 seconds."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def parse_percent(log_text: str) -> Optional[str]:
    """The last progress mark of make, '[ 45%]', as '45 %'; None if there is none."""
    found = re.findall(r"\[ *(\d+)%\]", log_text)
    return f"{found[-1]} %" if found else None


def find_remedy(log_text: str) -> str:
    """How to fix a failure, by REMEDIES; empty if no pattern matches."""
    for pattern, advice in REMEDIES:
        if re.search(pattern, log_text):
            return advice
    return ""


def read_tail(log: Path, num_bytes: int = 64 << 10) -> str:
    """The end of a log; invalid UTF-8 becomes replacement characters."""
    with log.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - num_bytes))
        return stream.read().decode("utf-8", "replace")


def run_command(
    command: Sequence[str],
    *,
    doing: str,
    log: Path,
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[Path] = None,
) -> None:
    """Run a command and wait for it. Output goes to `log`; a line like 'building 0:00:16 (45 %)' is printed
    every few seconds.

    Raises SetupError with the end of the log, and with a remedy if one is known.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(lock_descriptors),
        )
        try:
            _watch(process, doing, log)
        except BaseException:
            _terminate(process)
            raise
    if process.returncode:
        raise SetupError(describe_failure(doing, process.returncode, log))


def handle_signals() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt(signal), so that they also end the running command."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # keep what nohup set
            signal.signal(number, end)


def describe_failure(doing: str, status: int, log: Path) -> str:
    """Message for a failed command: the end of its log, the path of the log, the remedy."""
    text = read_tail(log)
    last = "\n".join(f"    {line}" for line in text.splitlines()[-TAIL_LINES:])
    advice = find_remedy(text)
    return f"{doing}: failed with status {status}\n{last}\n  full log: {log}" + (
        f"\n  fix: {advice}" if advice else ""
    )


def _watch(process: subprocess.Popen[bytes], doing: str, log: Path) -> None:
    started_at = time.monotonic()
    while True:
        try:
            process.wait(timeout=0.2)
            return
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        # Measured from the last line of any command, so that several short commands in a row also show
        # progress.
        if now - _printed_at >= HEARTBEAT_SECONDS:
            done = parse_percent(read_tail(log))
            say(f"{doing} {format_clock(now - started_at)}" + (f" ({done})" if done else ""))


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """End the command and its children. It runs in its own session, so ^C does not reach it."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=10)
    except ProcessLookupError:
        pass
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(question: str) -> bool:
    """Ask yes or no on the terminal; False if there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input(f"  {question} [y/N] ").strip().lower() in ("y", "yes")
