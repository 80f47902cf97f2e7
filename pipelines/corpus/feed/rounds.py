"""What of a Delta table is landed next, and what updates and deletes mean. Plain values: knows neither Spark
nor storage.

The documents of a source are those of the rows of its table. Versions that only insert rows are added to
what was landed. A version that updates or deletes rows changes documents that are there:
`corpus.changed_files` says what then, as for files. No row is looked up by a key: the table is read anew (a
snapshot), which is right for every kind of change, and the stage reads all landed rows anyway when earlier
documents change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pipelines.corpus.source import ChangedFiles

LostVersions = Literal["stop", "snapshot"]
"""What to do if versions can no longer be read that were not landed yet."""
FEED_PROPERTY = "delta.enableChangeDataFeed"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeFeed:
    """Section corpus.change_feed."""

    lost_versions: LostVersions = "stop"


class TableNow(NamedTuple):
    """The table of a source as it is now."""

    id: str
    """Another one if the table is deleted and created again."""
    version: int
    has_feed: bool
    columns: Mapping[str, str]
    """As `fields.describe_columns` gives them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Landed:
    """What was landed so far, as the newest commit of the landed table says."""

    table_id: str
    version: int
    """The last one whose rows are landed."""
    starting_version: int | None
    num_kept: int = 0
    """Rows that were updated or deleted since, and whose documents stay as they are."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of the table at `version`; empty = an earlier Distributary did not record them."""

    def encode(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "table_id": self.table_id,
            "version": self.version,
            "starting_version": self.starting_version,
            "num_kept": self.num_kept,
            "columns": dict(self.columns),
        }


def decode_landed(content: Mapping[str, Any]) -> Landed:
    """What `Landed.encode` wrote. Raises KeyError or TypeError for other content."""
    return Landed(**content)


class Changes(NamedTuple):
    """Rows of a range of versions, by kind."""

    inserted: int
    updated: int
    deleted: int

    @property
    def changes_documents(self) -> bool:
        """Whether rows of before are no longer what they were."""
        return bool(self.updated or self.deleted)


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one run lands."""

    first: int
    last: int
    """Versions of the table, both included. A snapshot has the rows of `last`."""
    is_snapshot: bool
    why: str = ""
    """Why the table is read anew; empty if that is plain."""

    @property
    def versions(self) -> str:
        one = self.first == self.last
        return f"version {self.last}" if one else f"versions {self.first} to {self.last}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the configuration says of one source."""

    starting_version: int | None
    changed_files: ChangedFiles
    lost_versions: LostVersions


def plan_round(landed: Landed | None, now: TableNow, policy: Policy) -> Round | None:
    """What to land now; None if there is nothing new.

    Raises ValueError if the table is another one than before, went back, or has no change feed, or if its
    rows must be read anew and the configuration forbids that.
    """
    if landed is not None:
        _require_same_table(landed, now, policy)
        if landed.num_kept and policy.changed_files == "rebuild":
            kept = f"corpus.changed_files was keep when {landed.num_kept:,} rows were updated or deleted"
            return plan_snapshot(now, policy, kept)
        if landed.version == now.version:
            return None
    if not now.has_feed:
        raise ValueError(
            f"it has no change feed: ALTER TABLE ... SET TBLPROPERTIES ({FEED_PROPERTY} = true) records the "
            "changes from then on; or choose format: delta, which reads the newest version as a whole"
        )
    if landed is not None:
        planned = Round(first=landed.version + 1, last=now.version, is_snapshot=False)
        same = all(now.columns.get(name) == kind for name, kind in landed.columns.items())
        return planned if same else settle_columns(planned, now, policy)
    if policy.starting_version is None:
        return Round(first=now.version, last=now.version, is_snapshot=True)
    if policy.starting_version > now.version:
        raise ValueError(
            f"options.starting_version is {policy.starting_version}, but its newest version is "
            f"{now.version}; correct the version"
        )
    return Round(first=policy.starting_version, last=now.version, is_snapshot=False)


def plan_snapshot(now: TableNow, policy: Policy, why: str) -> Round:
    """The rows as they are now instead of all that was landed. Raises ValueError if that would bring rows
    that the source leaves out."""
    if policy.starting_version is not None:
        raise ValueError(
            f"{why}, so the table must be read anew, but rows of before "
            f"options.starting_version={policy.starting_version} cannot be told from the others. To have the "
            "whole table, remove starting_version and give the source another path. To keep the documents "
            "of rows that were updated or deleted: corpus.changed_files=keep"
        )
    return Round(first=now.version, last=now.version, is_snapshot=True, why=why)


def settle_changes(
    planned: Round, changes: Changes, landed: Landed | None, now: TableNow, policy: Policy
) -> Landed | Round:
    """What is landed once the inserted rows of the round are; or the snapshot that takes their place.

    Raises ValueError if rows were updated or deleted and the configuration forbids what this takes.
    """
    kept = 0 if landed is None else landed.num_kept
    if changes.changes_documents:
        why = f"{planned.versions} updated {changes.updated:,} rows and deleted {changes.deleted:,}"
        if policy.changed_files == "stop":
            raise ValueError(
                f"{why}. To read the table anew, so that the documents are those of its rows now: "
                "corpus.changed_files=rebuild. To keep the documents of these rows as they are, and add "
                "inserted rows only: corpus.changed_files=keep"
            )
        if policy.changed_files == "rebuild":
            return plan_snapshot(now, policy, why)
        kept += changes.updated + changes.deleted
    return Landed(
        table_id=now.id,
        version=planned.last,
        starting_version=policy.starting_version,
        num_kept=kept,
        columns=now.columns,
    )


def settle_lost(planned: Round, reason: str, landed: Landed | None, now: TableNow, policy: Policy) -> Round:
    """The snapshot that takes the place of versions that cannot be read. Raises ValueError if the
    configuration forbids it."""
    lost = f"{planned.versions} cannot be read ({reason}) and were not landed yet"
    if landed is None:  # only a round from starting_version on is the first one and no snapshot
        raise ValueError(
            f"{lost}. Set options.starting_version to the first version that the log still has and that was "
            "recorded, or remove it to have the whole table"
        )
    also = _describe_obstacles(policy)
    if policy.lost_versions == "stop" or also:
        raise ValueError(
            f"{lost}. To go on with the rows of version {now.version}: corpus.change_feed.lost_versions="
            f"snapshot{also}. To lose no more, run more often, or raise delta.logRetentionDuration and "
            "delta.deletedFileRetentionDuration of the table"
        )
    return plan_snapshot(now, policy, lost)


def settle_columns(planned: Round, now: TableNow, policy: Policy) -> Round:
    """The snapshot that takes the place of versions that dropped, renamed or retyped columns: no single feed
    shows them, and rows of before have other columns. Raises ValueError if the configuration forbids it."""
    why = f"{planned.versions} dropped, renamed or retyped columns"
    if policy.changed_files != "rebuild":
        raise ValueError(
            f"{why}, so the table must be read anew, and corpus.changed_files={policy.changed_files} forbids "
            "that; set corpus.changed_files=rebuild"
        )
    return plan_snapshot(now, policy, why)


def snapshot_of(now: TableNow) -> Landed:
    """What is landed once a snapshot is."""
    return Landed(table_id=now.id, version=now.version, starting_version=None, columns=now.columns)


def _describe_obstacles(policy: Policy) -> str:
    """What else stands against a snapshot."""
    needs = []
    if policy.changed_files != "rebuild":
        needs.append("corpus.changed_files=rebuild, because the rows that are there come again")
    if policy.starting_version is not None:
        needs.append("no options.starting_version and another path, because earlier rows come too")
    return "".join(f", and {need}" for need in needs)


def _require_same_table(landed: Landed, now: TableNow, policy: Policy) -> None:
    if landed.table_id != now.id:
        raise ValueError(
            f"its id is {now.id} and was {landed.table_id}: the table was deleted and created again, or "
            f"options.table names another one, and its versions are other ones now; {_GO_ON_ELSEWHERE}"
        )
    if now.version < landed.version:
        raise ValueError(
            f"its newest version is {now.version}, but {landed.version} was landed: the table "
            f"went back, as when a copy is brought back; {_GO_ON_ELSEWHERE}"
        )
    if landed.starting_version != policy.starting_version:
        raise ValueError(
            f"options.starting_version is {policy.starting_version}, but rows were landed with "
            f"{landed.starting_version}; set it back, or give the source another path"
        )


_GO_ON_ELSEWHERE = (
    "to read what is there now, add a source with another name and another path. To keep the documents that "
    "there are, give this source options.land: false"
)
