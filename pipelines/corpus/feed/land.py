"""Delta tables -> the tables of landed rows at the paths of their sources, before the files of a corpus are
listed.

One round of a table:

1. Look: its id, newest version and properties, and what the newest commit of the landed rows says. If the
   versions are equal, that is all; no JVM starts.
2. Read the change feed of the versions behind the landed one, or all rows (a snapshot).
3. Commit the inserted rows, on the condition that the landed rows are still those of step 1.

The commit is the only step that others see, and it says itself which versions it brings. So a round that was
killed anywhere is made again from its beginning, and of two drivers at once one commits and the other stops
with an error that another try solves. No version is landed twice, and none is left out.

What follows (ledger, increments, streams) sees a Delta table: an inserted row is in a new file, a snapshot
takes the files of before away.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from pipelines.change import Replaced
from pipelines.corpus.feed.fields import require_fields
from pipelines.corpus.feed.read import LostVersionsError, OtherSchemaError, hold_changes, hold_snapshot
from pipelines.corpus.feed.rounds import (
    FEED_PROPERTY,
    ChangeFeed,
    Landed,
    Policy,
    Round,
    TableNow,
    decode_landed,
    plan_round,
    settle_changes,
    settle_columns,
    settle_lost,
    snapshot_of,
)
from pipelines.corpus.listing import NoFilesError
from pipelines.corpus.source import ChangedFiles, Source
from pipelines.paths import absolute, without_credentials
from pipelines.pin import MAINTENANCE, Pin, TableLog, fingerprint, open_log, pin
from pipelines.retention import delete_unpinned
from pipelines.tables import LANDED_ROWS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pipelines.held import HeldRows

FEW_COMMITS = 16
"""Commits without rows (OPTIMIZE, VACUUM) that are looked at again by each run. After more of them a round is
landed without rows: the log of the table will not keep them forever."""


class Feed(NamedTuple):
    """A source whose table is looked at."""

    source: Source
    place: str
    """Path or name of the table."""
    path: str
    """Of the landed rows."""
    policy: Policy
    note: Callable[[str], None]

    def tell(self, text: str) -> None:
        """A line for people."""
        self.note(f"source {self.source.name}: table {without_credentials(self.place)}: {text}")


def land_tables(
    sources: Sequence[Source],
    settings: ChangeFeed,
    changed_files: ChangedFiles,
    start_spark: "Callable[[], SparkSession]",
    note: Callable[[str], None],
) -> None:
    """Land what the tables have now. `start_spark` is called if there is something; `note` gets lines for
    people.

    Raises NoFilesError if a table does not exist, ValueError if its versions do not go on where they ended or
    the configuration forbids what they take, RuntimeError if another driver landed meanwhile.
    """
    for source in sources:
        if source.format != "delta_changes" or not source.request.options.land:
            continue
        options = source.request.options
        policy = Policy(
            starting_version=options.starting_version,
            changed_files=changed_files,
            lost_versions=settings.lost_versions,
        )
        feed = Feed(source, options.place, absolute(source.path), policy, note)
        try:
            _land_table(feed, start_spark)
        except (OSError, ValueError) as error:
            place = without_credentials(feed.place)
            raise type(error)(f"source {source.name!r}: table {place}: {error}") from None


class Look(NamedTuple):
    """What is there when a round begins."""

    earlier: Pin | None
    """The newest commit of the landed rows."""
    landed: Landed | None
    log: TableLog
    """Of the table."""
    now: TableNow


def _land_table(feed: Feed, start_spark: "Callable[[], SparkSession]") -> None:
    look = _look(feed)
    planned = plan_round(look.landed, look.now, feed.policy)
    if planned is None or (look.landed and not planned.is_snapshot and _has_no_rows(look.log, planned)):
        return
    require_fields(feed.source, look.log.source.schema_json)
    if not planned.is_snapshot:
        planned = _land_changes(feed, planned, look, start_spark)
    if planned is not None:
        _land_snapshot(feed, planned, look, start_spark)


def _look(feed: Feed) -> Look:
    earlier = _find_landed(feed)
    landed = None if earlier is None else decode_landed(earlier.facts["feed"])
    log = open_log(feed.place)  # after the landed rows: another driver may have landed newer versions
    if log is None:
        raise NoFilesError(
            "there is no Delta table; create it, correct options.table, or set options.land: false to keep "
            "what was landed"
        )
    properties = {name.lower(): value for name, value in log.source.configuration.items()}
    has_feed = properties.get(FEED_PROPERTY.lower(), "").lower() == "true"
    return Look(earlier, landed, log, TableNow(log.source.table_id, log.version, has_feed))


def _find_landed(feed: Feed) -> Pin | None:
    """The newest commit of the landed rows. Raises ValueError if another program wrote it."""
    if feed.path == feed.place:
        raise ValueError(
            "it is also the path of the source; path is a folder of its own, where landed rows are kept, "
            "such as ${root}/landed/NAME"
        )
    found = pin(feed.path)
    if found is not None and (found.table != LANDED_ROWS.name or "feed" not in found.facts):
        raise ValueError(
            f"{without_credentials(feed.path)} is a table that another program or stage has written; give "
            "the source a path of its own, where landed rows are kept"
        )
    return found


def _has_no_rows(log: TableLog, planned: Round) -> bool:
    """Whether the versions are few and only moved rows to other files, or set properties."""
    num_versions = planned.last - planned.first + 1
    if num_versions > FEW_COMMITS:
        return False
    newer = takewhile(lambda commit: commit["version"] >= planned.first, log.source.list_commits())
    found = [commit["operation"] for commit in newer]
    return len(found) == num_versions and all(operation in MAINTENANCE for operation in found)


def _land_changes(
    feed: Feed, planned: Round, look: Look, start_spark: "Callable[[], SparkSession]"
) -> Round | None:
    """Land the inserted rows of the versions. Returns the snapshot to land instead, if that must be."""
    if look.log.source.read_commit(planned.first) is None:  # the log is cut from its beginning
        reason = f"the log has no version {planned.first} any more"
        return settle_lost(planned, reason, look.now, feed.policy)
    feed.tell(f"landing {planned.versions}")
    try:
        with hold_changes(start_spark(), feed.place, planned, feed.path) as (held, changes):
            after = settle_changes(planned, changes, look.landed, look.now, feed.policy)
            if isinstance(after, Round):
                return after
            if changes.changes_documents:
                feed.tell(
                    f"{changes.updated:,} rows were updated and {changes.deleted:,} deleted; their documents "
                    "are kept (corpus.changed_files=keep)"
                )
            _commit(feed, held, look.earlier, after, replaces=look.earlier is None)
            return None
    except LostVersionsError as lost:
        return settle_lost(planned, str(lost), look.now, feed.policy)
    except OtherSchemaError:
        return settle_columns(planned, look.now, feed.policy)


def _land_snapshot(feed: Feed, planned: Round, look: Look, start_spark: "Callable[[], SparkSession]") -> None:
    """Make the rows of the newest version the landed rows."""
    why = f"; the table is read anew, because {planned.why}" if planned.why else ""
    feed.tell(f"landing the rows of version {planned.last}{why}")
    with hold_snapshot(start_spark(), feed.place, planned.last, feed.path) as held:
        _commit(feed, held, look.earlier, snapshot_of(look.now), replaces=True)
    if look.earlier is not None:
        delete_unpinned(feed.path, keep=())  # what earlier snapshots replaced, a week ago and more


def _commit(feed: Feed, held: "HeldRows", earlier: Pin | None, after: Landed, *, replaces: bool) -> None:
    """Make the held rows part of the landed ones, or `replaces` those, if they are still those of `earlier`.

    Raises RuntimeError if they are not: another driver was faster.
    """
    base, facts = "" if earlier is None else earlier.fingerprint, {"feed": after.encode()}
    made_from = fingerprint("landed rows", base, facts, replaces)
    if replaces:
        if pin(feed.path) != earlier:
            raise RuntimeError(
                f"landed rows at {without_credentials(feed.path)}: another writer changed the rows meanwhile;"
                " run the stage again when it is done"
            )
        LANDED_ROWS.overwrite(held, feed.path, fingerprint=made_from, facts=facts)
        return
    # With `replaced`, although it is empty: rows of another driver must not be added to.
    LANDED_ROWS.extend(held, feed.path, base=base, fingerprint=made_from, facts=facts, replaced=Replaced())
