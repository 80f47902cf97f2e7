"""Kafka topics -> files below the paths of their sources, before the files of a corpus are listed.

One round of a topic:

1. Look: id, partitions, oldest and last offsets; the last one before an open transaction.
2. Claim the offsets behind the newest claim (`claims.py`). If another driver is faster, its claim counts.
3. Land the records of the claim as files (`files.py`), and mark the claim as done.

A round that was killed leaves a claim that is not done; the next round lands what is missing of it before it
claims more. So every offset is claimed once, every claimed offset is in exactly one file, and no file ever
changes. What follows (ledger, increments, streams) needs to know nothing of Kafka: it sees new files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow.fs import FileType

from pipelines.corpus.kafka.claims import Claims
from pipelines.corpus.kafka.cluster import Kafka, describe_topic
from pipelines.corpus.kafka.consume import Landed, land_ranges
from pipelines.corpus.kafka.files import find_rest, list_firsts, name_file
from pipelines.corpus.kafka.ranges import RANGE_OFFSETS, Claim, Range, Topic, plan_claim
from pipelines.corpus.listing import NoFilesError
from pipelines.corpus.source import Source
from pipelines.paths import without_credentials
from pipelines.schema import arrow_schema
from pipelines.storage import Folder, locate
from pipelines.stores import carry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DRIVER_OFFSETS = RANGE_OFFSETS
"""Fewer offsets than these are read by the driver, which takes less time than starting a task for each
partition."""
_RANGES = "task INT, partition INT, first BIGINT, stop BIGINT"
_LANDED = "num_records BIGINT, partition INT, first BIGINT, stop BIGINT"
"""A row for each task, without a range; and one for each range that was skipped."""


def list_topics(sources: Sequence[Source]) -> list[Source]:
    """The sources whose topics are asked for records."""
    return [source for source in sources if source.format == "kafka" and source.request.options.land]


def land_topics(
    sources: Sequence[Source],
    kafka: Kafka,
    start_spark: "Callable[[], SparkSession]",
    note: Callable[[str], None],
) -> None:
    """Land what the topics have now. `start_spark` is called if there is much; `note` gets lines for people.

    Raises NoFilesError if a topic does not exist, ValueError if its offsets do not go on where they ended,
    ConnectionError if the brokers do not answer, PermissionError if they refuse.
    """
    for source in list_topics(sources):
        try:
            _land_topic(source, kafka, start_spark, note)
        except (OSError, ValueError) as error:
            raise type(error)(f"source {source.name!r}: {error}") from None


def _land_topic(
    source: Source, kafka: Kafka, start_spark: "Callable[[], SparkSession]", note: Callable[[str], None]
) -> None:
    topic, folder = source.request.options.topic, Folder(source.path) / source.request.options.topic
    claims = Claims(folder)
    while True:
        newest = claims.read_newest()  # before the look: a claim of another driver may be newer than that
        now = describe_topic(kafka, topic)
        if now is None:
            raise NoFilesError(
                f"no topic {topic!r} at {kafka.servers}; create it, correct options.topic of the source, or "
                "set its options.land: false to keep what was landed"
            )
        if newest is None and _has_records(folder):
            # Another driver may have claimed and landed since: claims come before records.
            if claims.read_newest() is None:
                raise ValueError(
                    f"{without_credentials(folder.path)} has records, but the list of their offsets is "
                    "missing (_claims); bring it back, or give the source another path"
                )
            continue
        if newest is not None and not claims.is_done(newest):
            _check_same(topic, newest, now)
            claims.finish(newest, _land_claim(newest, topic, folder, kafka, start_spark, note))
            continue
        claim = _plan(topic, newest, now, kafka)
        if claim is None:
            return
        if not claims.create(claim):
            continue  # another driver was faster: finish what it claimed
        for each in claim.skipped:
            note(_describe_skipped(topic, each))
        claims.finish(claim, _land_claim(claim, topic, folder, kafka, start_spark, note))
        return


def _plan(topic: str, newest: Claim | None, now: Topic, kafka: Kafka) -> Claim | None:
    try:
        return plan_claim(newest, now, kafka.lost_offsets)
    except ValueError as error:
        raise ValueError(f"topic {topic}: {error}") from None


def _check_same(topic: str, claim: Claim, now: Topic) -> None:
    """Raises ValueError if what was claimed cannot be in the topic of now."""
    # With the ends of now, only the faults of another topic and of offsets that went back are left.
    _plan(topic, claim, now._replace(first=dict.fromkeys(now.first, 0)), Kafka())


def _has_records(folder: Folder) -> bool:
    files, root = locate(folder.path)
    return any(
        name.isdigit() and files.get_file_info(f"{root.rstrip('/')}/{name}").type == FileType.Directory
        for name in folder.names()
    )


def _land_claim(
    claim: Claim,
    topic: str,
    folder: Folder,
    kafka: Kafka,
    start_spark: "Callable[[], SparkSession]",
    note: Callable[[str], None],
) -> list[Range]:
    """Create the files of the claim that are missing. Returns the offsets that Kafka had deleted."""
    ranges = list(_find_missing(claim, folder))
    num_offsets = sum(each.stop - each.first for each in ranges)
    if not num_offsets:
        return []
    note(f"topic {topic}: landing {num_offsets:,} offsets of {len({r.partition for r in ranges})} partitions")
    if num_offsets <= DRIVER_OFFSETS:
        landed: Iterable[Landed] = [land_ranges(kafka, topic, folder.path, ranges)]
    else:
        landed = _land_on_executors(start_spark(), kafka, topic, folder.path, ranges)
    skipped = [lost for each in landed for lost in each.skipped]
    for lost in skipped:
        note(_describe_skipped(topic, lost))
    require_files(claim, folder)
    return skipped


def require_files(claim: Claim, folder: Folder) -> None:
    """Raises ValueError if tasks created files that the driver does not see."""
    firsts = {each.partition: set(list_firsts(folder, each.partition)) for each in claim.ranges}
    for part in claim.cut():
        if part.first not in firsts[part.partition]:
            raise ValueError(
                f"{without_credentials(folder.path)}/{name_file(part.partition, part.first)} "
                "was written by a task and is not there for the driver; the path of the source must be on "
                "storage that all machines see. The next run lands what is missing"
            )


def _find_missing(claim: Claim, folder: Folder) -> Iterator[Range]:
    firsts: dict[int, list[int]] = {}
    for part in claim.cut():
        if part.partition not in firsts:
            firsts[part.partition] = list_firsts(folder, part.partition)
        rest = find_rest(folder, part, firsts[part.partition])
        if rest.first < rest.stop:
            yield rest


def _land_on_executors(
    spark: "SparkSession", kafka: Kafka, topic: str, path: str, ranges: Sequence[Range]
) -> Iterator[Landed]:
    columns = [range(len(ranges)), *zip(*ranges, strict=True)]
    table = pa.Table.from_arrays(
        [pa.array(column, kind.type) for column, kind in zip(columns, arrow_schema(_RANGES), strict=True)],
        schema=arrow_schema(_RANGES),
    )
    rows = spark.createDataFrame(table).repartitionById(len(ranges), "task")
    land = partial(_land_batches, kafka=kafka, topic=topic, path=path, schema=arrow_schema(_LANDED))
    for row in rows.mapInArrow(carry(land), _LANDED).collect():  # a row for each 50,000 offsets
        skipped = () if row.partition is None else (Range(row.partition, row.first, row.stop),)
        yield Landed(row.num_records, skipped)


def _land_batches(
    batches: Iterable[pa.RecordBatch], kafka: Kafka, topic: str, path: str, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        ranges = [Range(row["partition"], row["first"], row["stop"]) for row in batch.to_pylist()]
        landed = land_ranges(kafka, topic, path, ranges)
        rows = [(landed.num_records, None, None, None), *((0, *each) for each in landed.skipped)]
        columns = zip(zip(*rows, strict=True), schema, strict=True)
        arrays = [pa.array(column, kind.type) for column, kind in columns]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _describe_skipped(topic: str, lost: Range) -> str:
    return (
        f"topic {topic}: offsets {lost.first:,} to {lost.stop - 1:,} of partition {lost.partition} were "
        "deleted by Kafka before they were read; skipped"
    )
