"""A round of a table -> landed rows: the feed of some versions, or a snapshot, in one commit."""

from collections.abc import Callable

from pyspark.sql import SparkSession

from pipelines.change import Replaced
from pipelines.corpus.feed.look import Feed, Look
from pipelines.corpus.feed.read import LostVersionsError, OtherSchemaError, hold_changes, hold_snapshot
from pipelines.corpus.feed.rounds import (
    Landed,
    Round,
    settle_changes,
    settle_columns,
    settle_lost,
    snapshot_of,
)
from pipelines.held import HeldRows
from pipelines.pin import Pin, fingerprint
from pipelines.retention import delete_unpinned
from pipelines.tables import LANDED_ROWS

_DROPS_COLUMNS = ("DROP COLUMNS", "REPLACE COLUMNS")
"""Operations that Delta does not notice as the first one of a feed. The columns show them, unless they were
added again and the table is named in a catalog."""


def land_changes(
    feed: Feed, planned: Round, look: Look, start_spark: Callable[[], SparkSession]
) -> Round | None:
    """Land the inserted rows of the versions. Returns the snapshot to land instead, if that must be."""
    first = look.log.source.read_commit(planned.first)
    if first is None:  # the log is cut from its beginning
        reason = f"the log has no version {planned.first} any more"
        return settle_lost(planned, reason, look.landed, look.now, feed.policy)
    if look.landed is not None and first["operation"] in _DROPS_COLUMNS:
        return settle_columns(planned, look.now, feed.policy)
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
        _delete_replaced(feed)
        return None
    except LostVersionsError as lost:
        return settle_lost(planned, str(lost), look.landed, look.now, feed.policy)
    except OtherSchemaError:
        return settle_columns(planned, look.now, feed.policy)


def land_snapshot(feed: Feed, planned: Round, look: Look, start_spark: Callable[[], SparkSession]) -> None:
    """Make the rows of the newest version the landed rows."""
    why = f"; the table is read anew, because {planned.why}" if planned.why else ""
    feed.tell(f"landing the rows of version {planned.last}{why}")
    with hold_snapshot(start_spark(), feed.place, planned.last, feed.path) as held:
        _commit(feed, held, look.earlier, snapshot_of(look.now), replaces=True)
    _delete_replaced(feed)


def _commit(feed: Feed, held: HeldRows, earlier: Pin | None, after: Landed, *, replaces: bool) -> None:
    """Make the held rows part of the landed ones, or `replaces` those, if they are still those of `earlier`.

    Raises RuntimeError if they are not: another driver was faster.
    """
    base, facts = "" if earlier is None else earlier.fingerprint, {"feed": after.encode()}
    made_from = fingerprint("landed rows", base, facts, replaces)
    if replaces:
        LANDED_ROWS.overwrite(held, feed.path, base=base, fingerprint=made_from, facts=facts)
        return
    # With `replaced`, although it is empty: rows of another driver must not be added to.
    LANDED_ROWS.extend(held, feed.path, base=base, fingerprint=made_from, facts=facts, replaced=Replaced())


def _delete_replaced(feed: Feed) -> None:
    """Delete what snapshots replaced and killed drivers left, a week ago and more. The rows are landed
    already, so a failure is told and nothing else."""
    try:
        delete_unpinned(feed.path, keep=())
    except Exception as error:  # of the store or of delta-rs
        why = str(error).partition("\n")[0]
        feed.tell(f"rows that were replaced could not be deleted, the next landing tries again: {why}")
