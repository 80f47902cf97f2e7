"""One driver a training: a lease in its folder, renewed by a thread. A second driver would double the run's metrics and delete
checkpoints under the first.

Object stores offer whole files and no lock: two drivers that start within one write both believe they hold the lease; at the next
renewal the one whose file was overwritten knows better and stops. Ages compare clocks of two machines, which must agree to some
seconds.
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


class Lease:
    """Held for as long as the context lasts. Raises RuntimeError on entry if another living driver holds it."""

    def __init__(self, folder: Folder, *, renew_seconds: float = RENEW_SECONDS) -> None:
        self._folder, self._renew_seconds = folder, renew_seconds
        self._mine = {
            "token": uuid.uuid4().hex,
            "process": process.here(),
            "host": platform.node(),
            "pid": os.getpid(),
        }
        self._taken_by: dict[str, Any] | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def require(self) -> None:
        """Raises RuntimeError if another driver has taken the lease, as it may when this one could not renew it for a minute."""
        if self._taken_by is not None:
            raise RuntimeError(
                f"{self._folder.path} was taken over by {_told(self._taken_by)}; this driver stops; once that one "
                "has ended, run again"
            )

    def __enter__(self) -> "Lease":
        holder = self._holder()
        if holder is not None and not _is_dead(holder):
            raise RuntimeError(
                f"{self._folder.path} is in use by {_told(holder)}; wait until it ends, or stop it: "
                f"{DEAD_SECONDS:.0f} s after its last sign of life this command takes over"
            )
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        try:
            if (self._holder() or {}).get("token") == self._mine["token"]:
                self._folder.delete(LEASE)
        except OSError as fault:
            # Never in place of the error that passes through; the file dies with its age.
            logger.warning("%s/%s could not be removed (%s)", self._folder.path, LEASE, fault)

    def _renew(self) -> None:
        while not self._done.wait(self._renew_seconds):
            try:
                holder = self._holder()
                if holder is not None and holder["token"] != self._mine["token"]:
                    self._taken_by = holder
                    return
                self._write()
            except OSError as fault:
                logger.warning(
                    "%s/%s is not renewed just now (%s); trying again", self._folder.path, LEASE, fault
                )

    def _holder(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._folder.read(LEASE))
        except FileNotFoundError:  # none, or on HDFS one that is just being renewed
            return None

    def _write(self) -> None:
        self._folder.write(LEASE, json.dumps({**self._mine, "renewed_at": time.time()}).encode())


def _is_dead(holder: dict[str, Any]) -> bool:
    return process.is_gone(holder["process"]) or _age(holder) > DEAD_SECONDS


def _age(holder: dict[str, Any]) -> float:
    """Seconds since the last renewal."""
    return max(0.0, time.time() - float(holder["renewed_at"]))


def _told(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}, renewed {_age(holder):.0f} s ago"
