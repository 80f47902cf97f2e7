"""Pins: which rows a version of a Delta table holds and what they were made from.

The log of a table named by a path is read without a JVM; that of a table named in a catalog, by Spark, or in
the folder of the table: see `catalog.find_folder`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, Protocol

import pyarrow as pa
from deltalake import DeltaTable as DeltaLog
from deltalake.exceptions import TableNotFoundError

from pipelines.catalog import CatalogSource, find_folder, has_table
from pipelines.commit_record import read_record
from pipelines.paths import is_table_name
from pipelines.repeating import repeat_on_hdfs
from pipelines.storage import Folder
from pipelines.stores import delta_options

MAINTENANCE = (
    *("OPTIMIZE", "VACUUM START", "VACUUM END"),
    *("SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "ADD CONSTRAINT", "DROP CONSTRAINT"),
    *("ADD COLUMN", "ADD COLUMNS", "CHANGE COLUMN", "CHANGE COLUMNS"),
    "UPGRADE PROTOCOL",
    "ADD FEATURE",
    "DROP FEATURE",
    "CLUSTER BY",
    "COMPUTE STATS",
    "UPDATE TABLE METADATA",
    "UPDATE FIELD METADATA",
    "CREATE TABLE",
)
"""Operations that do not change the rows of a table."""
_PLAIN_PATH = re.compile(r"\w[\w./-]*")
"""Relative paths that Delta and Spark write alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One commit of a table: what a later stage, a run or a person needs to name exactly these rows."""

    table: str
    path: str
    table_id: str
    """Delta's own id: a table that was deleted and created again has another one."""
    version: int
    digest: str
    """Digest of the rows this commit wrote, 32 hex digits, or of all rows if it extended a table; empty =
    last changed outside of Distributary."""
    num_rows: int
    """Rows this commit wrote, or all rows if it extended a table; -1 = last changed outside of
    Distributary."""
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


def transaction_name(made_from: str) -> str:
    """Delta's transaction that stands for a fingerprint. Its number is the version of the commit."""
    return f"distributary/{made_from}"


class LogSource(Protocol):
    """Where the log of a table is read from: `FileSource` or `catalog.CatalogSource`."""

    version: int
    table_id: str
    name: str
    """Name in the table's own metadata; may be empty."""
    configuration: Mapping[str, str]
    """Table properties, constraints among them."""
    columns: tuple[str, ...]
    schema_json: str
    """The columns with their types as Spark writes them in JSON."""
    partition_by: tuple[str, ...]

    def list_commits(self) -> Iterator[Mapping[str, Any]]:
        """version, operation, timestamp (milliseconds since 1970) and userMetadata of the commits up to
        `version`, newest first, as far as the log reaches back."""

    def find_version(self, made_from: str) -> int | None:
        """The newest version whose commit carries this fingerprint; None if there is none."""

    def read_commit(self, version: int) -> Mapping[str, Any] | None:
        """The commit, as in `list_commits`; None if the log no longer has it."""


class FileSource:
    """The log in the folder of a table, read by delta-rs."""

    def __init__(self, path: str, table: DeltaLog) -> None:
        self.path, self.table = path, table
        metadata = table.metadata()
        self.version, self.table_id, self.name = int(table.version()), str(metadata.id), metadata.name or ""
        self.configuration: Mapping[str, str] = metadata.configuration
        self.columns = tuple(column.name for column in table.schema().fields)
        self.schema_json = table.schema().to_json()
        self.partition_by = tuple(metadata.partition_columns)

    def list_commits(self) -> Iterator[Mapping[str, Any]]:
        # DeltaTable.history begins with the newest commit that the store has and counts down from the version
        # that was opened: if another writer commits in between, every commit gets the number of another one.
        for version in range(self.version, -1, -1):
            commit = self.read_commit(version)
            if commit is None:
                return
            yield commit

    def find_version(self, made_from: str) -> int | None:
        name = transaction_name(made_from)
        version = repeat_on_hdfs(self.path, lambda: self.table.transaction_version(name))
        return None if version is None else int(version)

    def read_commit(self, version: int) -> Mapping[str, Any] | None:
        try:
            content = Folder(self.path).read(f"_delta_log/{version:020d}.json")
        except FileNotFoundError:
            return None
        # Only lines that may be it: a commit may add a million files.
        actions = (json.loads(line) for line in content.splitlines() if b'"commitInfo"' in line)
        described: dict[str, Any] = next((each["commitInfo"] for each in actions if "commitInfo" in each), {})
        return {"operation": "unknown", **described, "version": version}


class TableLog:
    """The log of one table as it was when it was opened. Later commits are not seen: a writer that saw them
    would add keys that it has not compared with their rows, or replace rows that it does not know."""

    def __init__(self, path: str, source: LogSource) -> None:
        self.path, self.source, self.version = path, source, source.version
        self.folder = source.path if isinstance(source, FileSource) else None
        """Where we commit; None = Spark commits to the table's name."""

    def pin(self, *, made_from: str | None = None) -> Pin | None:
        """As the function `pin`, for the table as it was when the log was opened.

        Reads the commits back to the newest of ours; with `made_from` one more, however many lie between.
        """
        newest, record, foreign = self._newest
        if made_from is None:
            if foreign is not None and foreign[0] > newest:
                return self._foreign_pin(*foreign)
            return None if record is None else self._own_pin(newest, record)
        if record is None or (foreign is not None and foreign[0] > newest):
            return None
        if record["fingerprint"] == made_from:
            return self._own_pin(newest, record)
        version = self.source.find_version(made_from)
        if version is None or version <= record.get("last_foreign", -1):
            return None
        found = read_record(self.source.read_commit(version) or {})
        return None if found is None else self._own_pin(version, found)

    def read_pin(self, version: int) -> Pin | None:
        """The pin of the commit that made this version; None if it is not ours, or no longer in the log."""
        record = read_record(self.source.read_commit(version) or {})
        return None if record is None else self._own_pin(version, record)

    def find_newest_version(self, found: Pin) -> int:
        """The newest version with the rows of our commit `found`. A maintenance after it moves them to other
        files, and those of before may be deleted."""
        return self.version if self.pin() == found else found.version

    def read_totals(self, version: int) -> dict[str, Any] | None:
        """What the digest of our commit of this version was made of, as `digest.Totals` encodes it; None if
        the commit is of an earlier Distributary, which did not record it."""
        return (read_record(self.source.read_commit(version) or {}) or {}).get("totals")

    def list_shards(self) -> dict[str, int]:
        """Path, as the log has it, and number of rows of each file of this version; only for a table that is
        named by a path."""
        assert isinstance(self.source, FileSource), f"{self.path} is written by its catalog"
        files = pa.table(self.source.table.get_add_actions(flatten=True))
        return dict(zip(files["path"].to_pylist(), files["num_records"].to_pylist(), strict=True))

    def last_foreign(self) -> int:
        """The newest version that another program wrote rows in; -1 if there is none."""
        newest, record, foreign = self._newest
        if foreign is not None and foreign[0] > newest:
            return foreign[0]
        return -1 if record is None else int(record.get("last_foreign", -1))

    def last_number(self) -> int:
        """Number of our newest commit; -1 if there is none."""
        _, record, _ = self._newest
        return -1 if record is None else int(record.get("number", -1))

    def list_plain_shards(self, most: int) -> list[str] | None:
        """The files of the rows, relative to the table; None if Delta's own reader must read them: more than
        `most`, partitions, a newer protocol, or names that our writer does not give."""
        if not isinstance(self.source, FileSource) or self.source.partition_by:
            return None
        if self.source.table.protocol().min_reader_version > 1:
            return None
        files = list(self.list_shards())
        return files if len(files) <= most and all(map(_PLAIN_PATH.fullmatch, files)) else None

    def names_shards(self, folder: str, *, after: int) -> bool:
        """Whether a commit after version `after` added the shards of this folder."""
        newer = takewhile(lambda commit: commit["version"] > after, self.source.list_commits())
        return any((read_record(commit) or {}).get("folder") == folder for commit in newer)

    @cached_property
    def _newest(self) -> tuple[int, dict[str, Any] | None, tuple[int, str] | None]:
        """(version, record) of our newest commit, -1 and None if there is none; (version, operation) of the
        newest foreign one after it."""
        foreign: tuple[int, str] | None = None
        version = self.version
        for commit in self.source.list_commits():
            record, version = read_record(commit), commit["version"]
            if record is not None:
                return version, record, foreign
            if foreign is None and commit["operation"] not in MAINTENANCE:
                foreign = version, commit["operation"]
        if version > 0 and foreign is None:
            # The log does not reach back to its first commit: the commit that wrote the rows is gone.
            foreign = self.version, "a write older than the log"
        return -1, None, foreign

    def _own_pin(self, version: int, record: Mapping[str, Any]) -> Pin:
        own = {name: record[name] for name in ("table", "digest", "num_rows", "fingerprint", "facts")}
        return Pin(path=self.path, table_id=self.source.table_id, version=version, **own)

    def _foreign_pin(self, version: int, operation: str) -> Pin:
        return Pin(
            table=self.source.name or self.path,
            path=self.path,
            table_id=self.source.table_id,
            version=version,
            digest="",
            num_rows=-1,
            fingerprint="",
            facts={"operation": operation},
        )


def open_log(place: str, *, version: int | None = None) -> TableLog | None:
    """The log of the table at a path or with a name, up to `version` (None = newest); None if there is no
    table."""
    if is_table_name(place) and not has_table(place):
        return None
    folder = find_folder(place) if is_table_name(place) else place
    if folder is None:
        return TableLog(place, CatalogSource(place))

    def open_files() -> FileSource:
        return FileSource(folder, DeltaLog(folder, version=version, storage_options=delta_options(folder)))

    try:
        return TableLog(place, repeat_on_hdfs(folder, open_files))
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
