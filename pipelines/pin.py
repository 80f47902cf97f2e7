"""Pins: which rows a version of a Delta table holds and what they were made from, read from its log without a JVM."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deltalake import DeltaTable as DeltaLog
from deltalake.exceptions import TableNotFoundError

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
"""Operations that leave the rows of a table as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One commit of a table: what a later stage, a run or a person needs to name exactly these rows."""

    table: str
    path: str
    table_id: str
    """Delta's own id: a table deleted and made again has another one."""
    version: int
    digest: str
    """Digest of the rows this commit wrote, 32 hex digits; empty = last changed outside of Distributary."""
    num_rows: int
    """Rows this commit wrote."""
    fingerprint: str
    """What the rows were made from; empty = last changed outside of Distributary."""
    facts: dict[str, Any]
    """What the writer chose to tell, such as rows in and dropped by reason."""

    def identity(self) -> dict[str, Any]:
        """The part that pins the rows, for fingerprints and lineage."""
        return {
            "table": self.table,
            "table_id": self.table_id,
            "version": self.version,
            "digest": self.digest,
        }


def fingerprint(*parts: object) -> str:
    """32 hex digits over the canonical JSON of `parts`: equal parts, equal fingerprint, on every machine."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def pin(path: str, *, made_from: str | None = None) -> Pin | None:
    """The newest commit that wrote rows at `path`, or, with `made_from`, the one that carries this fingerprint.

    None if there is no table or no such commit. Reads the Delta log only. A newest commit that is not ours (someone's DELETE)
    gives a Pin with empty digest and fingerprint; what was written before it does not count as written.
    """
    try:
        log = DeltaLog(path)
    except TableNotFoundError:
        return None
    metadata = log.metadata()

    def foreign(version: int, operation: str) -> Pin | None:
        return (
            None
            if made_from
            else Pin(
                table=metadata.name or path,
                path=path,
                table_id=str(metadata.id),
                version=version,
                digest="",
                num_rows=-1,
                fingerprint="",
                facts={"operation": operation},
            )
        )

    version = log.version()
    for commit in _commits(log):
        record, version = _record(commit), commit["version"]
        if record is None and commit["operation"] not in MAINTENANCE:
            return foreign(version, commit["operation"])
        if record is not None and made_from in (None, record["fingerprint"]):
            return Pin(path=path, table_id=str(metadata.id), version=version, **record)
    # A log that does not reach back to its first commit has lost the one that wrote the rows.
    return foreign(log.version(), "a write older than the log") if version > 0 else None


def version_of(path: str) -> int:
    """Version of the table at `path`; -1 = no table."""
    try:
        return int(DeltaLog(path).version())
    except TableNotFoundError:
        return -1


def _commits(log: DeltaLog) -> Iterator[Mapping[str, Any]]:
    """Newest first; reads no more of the log than is asked for."""
    given, limit = 0, 16
    while True:
        commits = log.history(limit)
        yield from commits[given:]
        if len(commits) < limit:
            return
        given, limit = len(commits), limit * 8


def _record(commit: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        record = json.loads(commit.get("userMetadata") or "null")
    except json.JSONDecodeError:
        return None
    return record["distributary"] if isinstance(record, dict) and "distributary" in record else None
