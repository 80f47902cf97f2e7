"""A table as it is now, and what of it was landed: two logs are read, no Spark is loaded."""

import time
from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

from deltalake.exceptions import DeltaError

from pipelines.corpus.feed.fields import describe_columns
from pipelines.corpus.feed.rounds import FEED_PROPERTY, Landed, Policy, Round, TableNow, decode_landed
from pipelines.corpus.listing import NoFilesError
from pipelines.corpus.source import Source
from pipelines.paths import without_credentials
from pipelines.pin import MAINTENANCE, Pin, TableLog, open_log

FEW_COMMITS = 16
"""Commits without rows (OPTIMIZE, VACUUM) that are looked at again by each run, as long as all of them are
younger than MAX_AGE_SECONDS. Otherwise a round is landed without rows: the log of the table will not keep
them forever, and a commit that is gone may have had rows."""
MAX_AGE_SECONDS = 24 * 3600
"""Well below delta.logRetentionDuration, which is 30 days unless the table sets it."""


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


class Look(NamedTuple):
    """What is there when a round begins."""

    earlier: Pin | None
    """The newest commit of the landed rows."""
    landed: Landed | None
    log: TableLog
    """Of the table."""
    now: TableNow


def look_at(feed: Feed) -> Look:
    """Both logs. Raises NoFilesError without a table, ValueError if its log cannot be read or the landed rows
    are not ours."""
    earlier = _find_landed(feed)
    landed = None if earlier is None else decode_landed(earlier.facts["feed"])
    # After the landed rows: another driver may have landed newer versions.
    log = _open(
        feed.place,
        "its log",
        "give options.table its name in the catalog, where Spark reads the log; or drop the feature or the "
        "column from the table",
    )
    if log is None:
        raise NoFilesError(
            "there is no Delta table; create it, correct options.table, or set options.land: false to keep "
            "what was landed"
        )
    properties = {name.lower(): value for name, value in log.source.configuration.items()}
    has_feed = properties.get(FEED_PROPERTY.lower(), "").lower() == "true"
    columns = describe_columns(log.source.schema_json)
    return Look(earlier, landed, log, TableNow(log.source.table_id, log.version, has_feed, columns))


def _open(place: str, whose: str, remedy: str) -> TableLog | None:
    try:
        return open_log(place)
    except DeltaError as error:
        why = str(error).partition("\n")[0]  # the lines below are frames of the stack of delta-rs
        raise ValueError(f"{whose} cannot be read without Spark: {why}; {remedy}") from None


def _find_landed(feed: Feed) -> Pin | None:
    """The newest commit of the landed rows. Raises ValueError if another program wrote it."""
    if feed.path == feed.place:
        raise ValueError(
            "it is also the path of the source; path is a folder of its own, where landed rows are kept, "
            "such as ${root}/landed/NAME"
        )
    landed_at = without_credentials(feed.path)
    own = "give the source a path of its own, where landed rows are kept"
    log = _open(feed.path, f"the log of {landed_at}", own)
    found = None if log is None else log.pin()
    if found is not None and ("feed" not in found.facts):
        raise ValueError(f"{landed_at} is a table that another program or stage has written; {own}")
    return found


def has_no_rows(log: TableLog, planned: Round) -> bool:
    """Whether the versions are few and young, and only moved rows to other files, or set properties."""
    num_versions = planned.last - planned.first + 1
    if num_versions > FEW_COMMITS:
        return False
    newer = takewhile(lambda commit: commit["version"] >= planned.first, log.source.list_commits())
    found = list(newer)
    if len(found) < num_versions or any(commit["operation"] not in MAINTENANCE for commit in found):
        return False
    return time.time() - found[-1].get("timestamp", 0) / 1000 < MAX_AGE_SECONDS
