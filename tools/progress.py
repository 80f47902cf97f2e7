"""Long commands with their output in a log and a sign of life on the screen; errors that carry the remedy."""

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

# What the last lines of a log say, and what to do about it. The first match counts.
REMEDIES = (
    (r"No space left on device", "free some disk space: the set-up needs about 10 GB"),
    (
        r"Killed signal terminated program|fatal error: Killed",
        "the compiler ran out of memory: DISTRIBUTARY_BUILD_JOBS=1",
    ),
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES|does not match the expected sha256",
        "a file differs from its checksum: report it, do not override it",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|UnknownIssuer|invalid peer certificate|PKIX path building failed",
        "a proxy rewrites TLS: export SSL_CERT_FILE and PIP_CERT with its certificate bundle",
    ),
    (
        r"name resolution|Could not fetch URL|Failed to fetch|Connection refused|Network is unreachable|dns error|download fail",
        "no way to the package index: check the network, proxy variables and pip's configuration",
    ),
)


class SetupError(Exception):
    """The set-up cannot go on; the message says what failed and what to do."""


_spoken = time.monotonic()
lock_descriptors: List[int] = []
"""Of the locks that are held. Every command inherits them: where we are killed, a lock lives as long as what we left running."""


def say(text: str) -> None:
    """One line on the screen, at once."""
    global _spoken
    print(f"  {text}", flush=True)
    _spoken = time.monotonic()


def clock(seconds: float) -> str:
    """0:01:20 for 80 seconds."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def percent_done(log_text: str) -> Optional[str]:
    """The last '[ 45%]' that make wrote, as '45 %'."""
    found = re.findall(r"\[ *(\d+)%\]", log_text)
    return f"{found[-1]} %" if found else None


def remedy(log_text: str) -> str:
    """What to do about a failure, told from its log; empty where nothing is known."""
    for pattern, advice in REMEDIES:
        if re.search(pattern, log_text):
            return advice
    return ""


def tail(log: Path, num_bytes: int = 64 << 10) -> str:
    """The end of a log; bytes that are no UTF-8 are shown as replacement characters."""
    with log.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - num_bytes))
        return stream.read().decode("utf-8", "replace")


def run(
    command: Sequence[str],
    *,
    doing: str,
    log: Path,
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[Path] = None,
) -> None:
    """Run a command to its end with output in `log`; say 'doing 0:00:16 (45 %)' every few seconds.

    Raises SetupError with the end of the log and the remedy where one is known.
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
            _end(process)
            raise
    if process.returncode:
        raise SetupError(failure(doing, process.returncode, log))


def heed_signals() -> None:
    """From now on SIGTERM and SIGHUP raise KeyboardInterrupt(signal), so that they end the running command too."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's choice stands
            signal.signal(number, end)


def failure(doing: str, status: int, log: Path) -> str:
    """What a failed command leaves on the screen: end of the log, where the log is, what to do."""
    text = tail(log)
    last = "\n".join(f"    {line}" for line in text.splitlines()[-TAIL_LINES:])
    advice = remedy(text)
    return f"{doing}: failed with status {status}\n{last}\n  whole log: {log}" + (
        f"\n  fix: {advice}" if advice else ""
    )


def _watch(process: subprocess.Popen[bytes], doing: str, log: Path) -> None:
    begun = time.monotonic()
    while True:
        try:
            process.wait(timeout=0.2)
            return
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        # Since the last line of any kind: several short commands in a row are a silence too.
        if now - _spoken >= HEARTBEAT_SECONDS:
            done = percent_done(tail(log))
            say(f"{doing} {clock(now - begun)}" + (f" ({done})" if done else ""))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and what it started: it has a session of its own, so ^C does not reach it."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=10)
    except ProcessLookupError:
        pass
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(question: str) -> bool:
    """Yes or no from a terminal; no where there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input(f"  {question} [y/N] ").strip().lower() in ("y", "yes")
