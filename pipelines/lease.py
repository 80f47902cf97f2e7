"""One driver per training: a lease file in the training's folder, renewed by a thread.

A second driver would double the metrics of the run and delete checkpoints that the first one needs. The file
is created by `Folder.create`, so of any number of drivers that start at the same moment one gets it. The
lease of a dead driver is replaced by the one that creates a claim to it: a file that is named by the token of
the dead driver. Ages are computed from the clocks of two machines, which must agree to a few seconds.

A driver that cannot renew its lease stops after the same time after which another driver may take it: see
`require`.
"""

import json
import logging
import os
import platform
import threading
import time
import uuid
from types import TracebackType
from typing import Any

from pipelines import process
from pipelines.storage import Folder

logger = logging.getLogger(__name__)

LEASE = "driver.json"
RENEW_SECONDS, DEAD_SECONDS = 15.0, 60.0
"""Time between renewals; age from which a lease counts as abandoned."""
ATTEMPTS, RETRY_SECONDS = 10, 0.2
"""To see who was faster, when another driver takes the lease at the same moment."""


class LeaseHeldError(RuntimeError):
    """Another driver works in the folder, or did until a moment ago."""

    def __init__(self, message: str, *, is_local: bool, renewed_at: float) -> None:
        super().__init__(message)
        self.is_local, self.renewed_at = is_local, renewed_at


class LeaseLostError(RuntimeError):
    """Another driver has the lease, or may have it: this one must not write any more."""


class Lease:
    """Held while the context lasts. Entering raises LeaseHeldError if another living driver holds the lease,
    RuntimeError if its file cannot be read."""

    def __init__(
        self, folder: Folder, *, renew_seconds: float = RENEW_SECONDS, dead_seconds: float = DEAD_SECONDS
    ) -> None:
        self._folder, self._renew_seconds, self._dead_seconds = folder, renew_seconds, dead_seconds
        self._path = f"{folder.path}/{LEASE}"
        self._mine = {
            "token": uuid.uuid4().hex,
            "process": process.identify_process(),
            "host": platform.node(),
            "pid": os.getpid(),
        }
        self._taken_by: dict[str, Any] | None = None
        self._renewed_at = 0.0
        """Seconds since the epoch: other drivers judge the lease by this clock, so its holder does, too."""
        self._problem = "storage does not answer"
        """Why the last renewal failed. This first text stays if a call to storage never returns."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    def require(self) -> None:
        """Raise LeaseLostError if another driver has taken the lease, or may have: it was not renewed for
        DEAD_SECONDS."""
        if self._taken_by is not None:
            raise LeaseLostError(
                f"{self._folder.path} was taken over by {_describe(self._taken_by)}; this driver stops; "
                "when that one has ended, run again"
            )
        age = time.time() - self._renewed_at
        if age > self._dead_seconds:
            raise LeaseLostError(
                f"{self._path} could not be renewed for {age:.0f} s ({self._problem}), so another driver may "
                "take over; this driver stops; when the storage works, run again"
            )

    def __enter__(self) -> "Lease":
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(RETRY_SECONDS)
            holder = self._require_readable()
            if holder is not None and not self._is_dead(holder):
                raise self._refusal(holder)
            if self._take(holder):
                self._thread.start()
                return self
        raise LeaseHeldError(
            f"{self._folder.path} is being taken over by another driver; wait until it ends, or stop it",
            is_local=False,
            renewed_at=0.0 if holder is None else float(holder["renewed_at"]),
        )

    def _require_readable(self) -> dict[str, Any] | None:
        try:
            return self._read(LEASE)
        except ValueError as error:
            raise RuntimeError(
                f"{self._path} cannot be read ({error}), so its driver is unknown; if no other driver works "
                "in this folder, delete the file and run again"
            ) from error

    def _refusal(self, holder: dict[str, Any]) -> LeaseHeldError:
        return LeaseHeldError(
            f"{self._folder.path} is in use by {_describe(holder)}; wait until it ends, or stop it: "
            f"{self._dead_seconds:.0f} s after its last renewal, this command takes over",
            is_local=holder["host"] == platform.node(),
            renewed_at=float(holder["renewed_at"]),
        )

    def _take(self, dead: dict[str, Any] | None) -> bool:
        """Take the lease from nobody, or from a `dead` driver; False if another driver was faster."""
        if dead is None:
            return self._create(LEASE)
        claims = [_name_claim(dead)]
        while not self._create(claims[-1]):
            rival = self._read(claims[-1])
            if rival is None or not self._is_dead(rival):
                return False
            claims.append(_name_claim(rival))  # killed while it took over: its claim can be claimed, too
        is_mine = False
        try:
            # A driver that was faster has written its own lease before it deleted its claims.
            found = self._read(LEASE)
            is_mine = found is not None and found["token"] == dead["token"]
            if is_mine:
                self._write()
            return is_mine
        finally:
            for claim in claims if is_mine else claims[-1:]:
                self._folder.delete(claim)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=self._dead_seconds)
        try:
            if self._thread.is_alive():
                raise TimeoutError(self._problem)
            if (self._read(LEASE) or {}).get("token") == self._mine["token"]:
                self._folder.delete(LEASE)
        except Exception as fault:
            # It must not replace the error that ends the context. The file expires by its age.
            logger.warning("%s could not be removed (%s)", self._path, fault)

    def _keep_renewing(self) -> None:
        while self._taken_by is None and not self._ended.wait(self._renew_seconds):
            try:
                self._renew()
            except Exception as fault:
                # Any exception: if this thread ended, the lease would expire without a word.
                self._problem = f"{type(fault).__name__}: {fault}"
                logger.warning("%s could not be renewed (%s); trying again", self._path, self._problem)

    def _renew(self) -> None:
        holder = self._read(LEASE)
        if holder is not None and holder["token"] != self._mine["token"]:
            self._taken_by = holder
        else:
            self._write()

    def _read(self, name: str) -> dict[str, Any] | None:
        """Who wrote a lease or a claim; None if there is no such file.

        Raises ValueError for a file that is not a lease, for example half of one.
        """
        try:
            content = self._folder.read(name)
        except FileNotFoundError:
            return None
        holder = json.loads(content)
        missing = {*self._mine, "renewed_at"} - set(holder if isinstance(holder, dict) else ())
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return holder

    def _write(self) -> None:
        # The time before the write: a write that takes long must not make the lease look younger than it is.
        now = time.time()
        self._folder.write(LEASE, self._content(now))
        self._renewed_at = now

    def _create(self, name: str) -> bool:
        now = time.time()
        created = self._folder.create(name, self._content(now))
        self._renewed_at = now if created else self._renewed_at
        return created

    def _content(self, now: float) -> bytes:
        return json.dumps({**self._mine, "renewed_at": now}).encode()

    def _is_dead(self, holder: dict[str, Any]) -> bool:
        return process.has_ended(holder["process"]) or _age(holder) > self._dead_seconds


def _name_claim(dead: dict[str, Any]) -> str:
    return f"driver-after-{dead['token']}.json"


def _age(holder: dict[str, Any]) -> float:
    """Seconds since the last renewal."""
    return max(0.0, time.time() - float(holder["renewed_at"]))


def _describe(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}, renewed {_age(holder):.0f} s ago"
