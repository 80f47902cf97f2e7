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
from typing import TYPE_CHECKING

from pipelines.corpus.feed.fields import require_fields
from pipelines.corpus.feed.look import Feed, has_no_rows, look_at
from pipelines.corpus.feed.rounds import ChangeFeed, Policy, plan_round
from pipelines.corpus.listing import NoFilesError
from pipelines.corpus.source import ChangedFiles, Source
from pipelines.paths import absolute, without_credentials

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def land_tables(
    sources: Sequence[Source],
    settings: ChangeFeed,
    changed_files: ChangedFiles,
    start_spark: "Callable[[], SparkSession]",
    note: Callable[[str], None],
) -> None:
    """Land what the tables have now. `start_spark` is called if there is something; `note` gets lines for
    people.

    Raises NoFilesError if a table does not exist, ValueError if it cannot be read, its versions do not go on
    where they ended or the configuration forbids what they take, RuntimeError if another driver landed
    meanwhile.
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
            raise choose_kind(error)(f"source {source.name!r}: table {place}: {error}") from None


def choose_kind(error: OSError | ValueError) -> type[Exception]:
    """The class that says of a longer message what `error` says of its own, and is made from a text alone."""
    if isinstance(error, NoFilesError):
        return NoFilesError  # a stream waits for the table
    if isinstance(error, OSError):
        return next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    return ValueError  # others, such as that of a broken JSON text, are made from more


def _land_table(feed: Feed, start_spark: "Callable[[], SparkSession]") -> None:
    look = look_at(feed)
    planned = plan_round(look.landed, look.now, feed.policy)
    if planned is None or (look.landed and not planned.is_snapshot and has_no_rows(look.log, planned)):
        return
    require_fields(feed.source, look.log.source.schema_json)
    from pipelines.corpus.feed.write import land_changes, land_snapshot  # loads Spark

    if not planned.is_snapshot:
        planned = land_changes(feed, planned, look, start_spark)
    if planned is not None:
        land_snapshot(feed, planned, look, start_spark)
