"""The process of one attempt of a training, as the process itself and the scheduler see it.

Each attempt has a folder beside the queue's rows. Its first file, `claim.json`, is created once: by the
process, before it does anything, or by a scheduler that finds an attempt without a process. So an attempt
that a killed scheduler had not brought to life yet never runs after another scheduler gave it up. The
process renews a lease there while it works, and writes the summary of its command.
"""

import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pipelines import process
from pipelines.lease import DEAD_SECONDS, LEASE, Lease
from pipelines.storage import Folder

ATTEMPTS = "_attempts"
"""Folder in that of the table: VACUUM leaves names with an underscore alone."""
CLAIM, SUMMARY = "claim.json", "summary.json"

Life = Literal["not begun", "alive", "ended", "given up"]


class ClaimUnreadableError(RuntimeError):
    """A claim is no JSON object: its writer was killed, or still writes, on storage that shows parts."""


class AttemptFolder:
    def __init__(self, queue: str, training: int, number: int) -> None:
        self._folder = Folder(queue) / f"{ATTEMPTS}/{training:06d}-{number:03d}"
        self.summary = f"{self._folder.path}/{SUMMARY}"
        """Where the process writes the summary of its command."""

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """Whether this process is the one of the attempt. If so, its lease is renewed while the context
        lasts."""
        mine = self._create_claim({"process": process.identify_process(), "host": platform.node()})
        if not mine:
            yield False
            return
        with Lease(self._folder):
            yield True

    def give_up(self) -> bool:
        """Take the claim, so that no process ever gets it; False if a process was faster."""
        return self._create_claim({"process": None, "host": platform.node()})

    def _create_claim(self, content: dict[str, Any]) -> bool:
        content |= {"token": uuid.uuid4().hex, "pid": os.getpid(), "at": time.time()}
        return self._folder.create(CLAIM, json.dumps(content).encode())

    def read_life(self) -> Life:
        """Whether the process lives. One of another machine is dead when it has not renewed its lease for
        DEAD_SECONDS. Raises ClaimUnreadableError for half of a claim: its process may live."""
        claim = self._read_claim()
        if claim is None:
            return "not begun"
        if claim["process"] is None:
            return "given up"
        if process.has_ended(claim["process"]):
            return "ended"
        if process.is_local(claim["process"]):
            return "alive"
        lease = self._read(LEASE) or {"renewed_at": claim["at"]}
        has_summary = (self.read_summary() or {}).get("exit_code") is not None
        is_dead = has_summary or time.time() - float(lease["renewed_at"]) > DEAD_SECONDS
        return "ended" if is_dead else "alive"

    def send(self, number: int) -> bool:
        """Send a signal to the process; False if it does not live on this machine."""
        try:
            claim = self._read_claim()
        except ClaimUnreadableError:
            return False
        return bool(claim and claim["process"] and process.send_signal(claim["process"], number))

    def read_summary(self) -> dict[str, Any] | None:
        """What the command wrote last; None = nothing."""
        return self._read(SUMMARY)

    def _read_claim(self) -> dict[str, Any] | None:
        try:
            return self._read(CLAIM)
        except ValueError as error:
            raise ClaimUnreadableError(
                f"{self._folder.path}/{CLAIM} cannot be read ({error}), so the process of this attempt is "
                "unknown; if no process works on this training, delete the file and run again"
            ) from error

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._folder.read(name)))
        except FileNotFoundError:
            return None
