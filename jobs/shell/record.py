"""The record of one command: which stages ran and what came of them, as one JSON object (--summary).

It is written when the configuration is known, after each stage and at the end, each time as a whole: a
reader never sees half of it, and a record that says "running" after the process is gone was killed.
docs/schedulers.md has every key.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jobs.shell.exits import KINDS, Exit, PreflightError, find_exit
from jobs.shell.plan import Outcome, Plan
from jobs.shell.redaction import redact
from jobs.shell.results import describe_results
from jobs.shell.settings import Section, Settings
from pipelines.paths import absolute

SCHEMA = 1
"""Raise it when a key changes its meaning or goes; a new key does not change it."""
PACKAGES = (
    "distributary",
    "pyspark",
    "delta-spark",
    "deltalake",
    "torch",
    "transformers",
    "mlflow",
    "horovod",
)


class Record:
    """What a command has done so far. Without a `target` (path or URI of a file) nothing is written."""

    def __init__(self, command: str, stages: list[str], target: str | None = None) -> None:
        self._target, self._began = target, time.monotonic()
        self.is_configured = False
        """Whether the configuration is complete; errors until then are faults of it."""
        self._stages: dict[str, dict[str, Any]] = {
            name: {"stage": name, "state": "not reached"} for name in stages
        }
        self._content: dict[str, Any] = {
            "schema": SCHEMA,
            "command": command,
            "state": "running",
            "exit_code": None,
            "recipe": None,
            "root": None,
            "started_at": _now(),
            "ended_at": None,
            "seconds": None,
            "process": {"host": platform.node(), "pid": os.getpid()},
            "versions": {"python": platform.python_version(), **_read_versions()} if target else {},
            "error": None,
        }

    def configure(self, settings: Settings) -> None:
        """The configuration is complete. Raises PreflightError if the record cannot be written."""
        self._content |= {"recipe": settings.tree["recipe"], "root": settings.root}
        self._write()
        self.is_configured = True

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage that runs while the context lasts; an error in it is the stage's."""
        began, entry = time.monotonic(), self._stages[name]
        entry["state"] = "running"
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            entry |= {"state": "interrupted" if stopped else "failed"}
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - began, 3)

    def add_outcome(self, outcome: Outcome, config: Section) -> None:
        """A stage that ended well, and what it wrote."""
        entry = self._stages[outcome.stage]
        entry |= {
            "state": "done" if outcome.ran else "up to date",
            "why": outcome.why,
            "facts": outcome.facts,
        }
        entry["fingerprint"] = outcome.fingerprint
        if self._target:
            entry |= describe_results(outcome, config)
            self._write(must=False)

    def add_plan(self, name: str, plan: Plan[Any]) -> None:
        """What a stage would do (--dry-run)."""
        state = "up to date" if plan.up_to_date else "would run"
        self._stages[name] |= {"state": state, "why": plan.why, "fingerprint": plan.fingerprint}
        if plan.notes:
            self._stages[name]["notes"] = plan.notes

    def end(self, status: Exit, error: BaseException | None = None, message: str = "") -> None:
        """The command is over; never raises, because the status of the command stands already."""
        self._content |= {
            "state": {Exit.DONE: "done"}.get(
                status, KINDS[status] if KINDS[status] == "interrupted" else "failed"
            ),
            "exit_code": int(status),
            "ended_at": _now(),
            "seconds": round(time.monotonic() - self._began, 3),
        }
        if error is not None:
            failed = [
                name for name, entry in self._stages.items() if entry["state"] in ("failed", "interrupted")
            ]
            self._content["error"] = {
                "kind": "busy" if type(error).__name__ == "LeaseHeldError" else KINDS[status],
                "type": type(error).__name__,
                "message": message,
                "stage": failed[0] if failed else None,
                "retry": status in (Exit.RETRY, Exit.PREEMPTED, Exit.INTERRUPTED, Exit.TERMINATED),
            }
        self._write(must=False)

    def _write(self, *, must: bool = True) -> None:
        if self._target is None:
            return
        from pipelines.storage import Folder  # loads Arrow

        content = redact({**self._content, "stages": list(self._stages.values())})
        folder, _, name = absolute(self._target).rpartition("/")
        try:
            Folder(folder or "/").write(
                name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
            )
        except Exception as error:
            if must:
                status = find_exit(error, configuring=True)
                raise PreflightError(
                    f"--summary {self._target} cannot be written: {error}", status
                ) from error
            print(redact(f"warning: --summary {self._target} cannot be written: {error}"), file=sys.stderr)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read_versions() -> Mapping[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
