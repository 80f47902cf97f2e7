"""Pins: which rows a version of a Delta table holds and what they were made from. Reads the Delta log without
a JVM."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deltalake import DeltaTable as DeltaLog
from deltalake.exceptions import TableNotFoundError

from pipelines.stores import delta_options

MAINTENANCE = (
    "OPTIMIZE",
    "VACUUM START",
    "VACUUM END",
    "SET TBLPROPERTIES",
    "UNSET TBLPROPERTIES",
    "ADD CONSTRAINT",
    "DROP CONSTRAINT",
    "CHANGE COLUMN",
    "UPGRADE PROTOCOL",
    "CREATE TABLE",
)
"""Operations that do not change the rows of a table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One commit of a table: what a later stage, a run or a person needs to name exactly these rows."""

    table: str
    path: str
    table_id: str
    """Delta's own id: a table that was deleted and created again has another one."""
    version: int
    digest: str
    """Digest of the rows this commit wrote, 32 hex digits; empty = last changed outside of Distributary."""
    num_rows: int
    """Rows this commit wrote; -1 = last changed outside of Distributary."""
    fingerprint: str
    """What the rows were made from; empty = last changed outside of Distributary."""
    facts: dict[str, Any]
    """What the writer recorded, such as rows in and rows dropped by reason."""

    def identity(self) -> dict[str, Any]:
        """The part that pins the rows, for fingerprints and lineage."""
        return {
            "table": self.table,
            "table_id": self.table_id,
            "version": self.version,
            "digest": self.digest,
        }


def fingerprint(*parts: object) -> str:
    """32 hex digits over the canonical JSON of `parts`: equal parts have equal fingerprints on every
    machine."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class TableLog:
    """The log of one table as it was when it was opened."""

    def __init__(self, path: str, log: DeltaLog) -> None:
        self._path, self._log = path, log
        self._metadata = log.metadata()
        self.version = int(log.version())

    @property
    def configuration(self) -> Mapping[str, str]:
        """Table properties, constraints among them."""
        return self._metadata.configuration

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the table's columns, in order."""
        return tuple(column.name for column in self._log.schema().fields)

    def last_transaction(self, application: str) -> int:
        """The highest number of `application`'s transaction ids; -1 if it has none."""
        version = self._log.transaction_version(application)
        return -1 if version is None else int(version)

    def pin(self, *, made_from: str | None = None) -> Pin | None:
        """As the function `pin`, for the table as it was when the log was opened."""
        version = self.version
        for commit in self._commits():
            record, version = _record(commit), commit["version"]
            if record is None and commit["operation"] not in MAINTENANCE:
                return None if made_from else self._foreign(version, commit["operation"])
            if record is not None and made_from in (None, record["fingerprint"]):
                return Pin(path=self._path, table_id=str(self._metadata.id), version=version, **record)
        # The log does not reach back to its first commit: the commit that wrote the rows is gone.
        if version > 0 and not made_from:
            return self._foreign(self.version, "a write older than the log")
        return None

    def _foreign(self, version: int, operation: str) -> Pin:
        return Pin(
            table=self._metadata.name or self._path,
            path=self._path,
            table_id=str(self._metadata.id),
            version=version,
            digest="",
            num_rows=-1,
            fingerprint="",
            facts={"operation": operation},
        )

    def _commits(self) -> Iterator[Mapping[str, Any]]:
        """Newest first. Reads 16 commits, then more only if they are needed."""
        given, limit = 0, 16
        while True:
            commits = self._log.history(limit)
            yield from commits[given:]
            if len(commits) < limit:
                return
            given, limit = len(commits), limit * 8


def open_log(path: str) -> TableLog | None:
    """The log of the table at `path`; None if there is no table."""
    try:
        return TableLog(path, DeltaLog(path, storage_options=delta_options(path)))
    except TableNotFoundError:
        return None


def version_of(path: str) -> int:
    """The newest version of the table at `path`; -1 if there is no table."""
    log = open_log(path)
    return -1 if log is None else log.version


def pin(path: str, *, made_from: str | None = None) -> Pin | None:
    """The newest commit that wrote rows at `path`, or, with `made_from`, the commit that carries this
    fingerprint.

    None if there is no table or no such commit. If the newest change is not ours (for example a DELETE by
    someone else), the Pin has an empty digest and fingerprint, and rows written before that change do not
    count as written.
    """
    log = open_log(path)
    return None if log is None else log.pin(made_from=made_from)


def _record(commit: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        record = json.loads(commit.get("userMetadata") or "null")
    except json.JSONDecodeError:
        return None
    return record["distributary"] if isinstance(record, dict) and "distributary" in record else None
