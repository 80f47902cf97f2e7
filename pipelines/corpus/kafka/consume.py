"""Ranges of offsets -> files. Runs in tasks on the executors, or for a few records on the driver.

Exactly the records of a range are read: each offset from the first to the last one, or a later record or the
end of the partition as proof that nothing is there. What Kafka deleted meanwhile is an error or is skipped,
never silently missing: the broker refuses an offset below its oldest one.

Memory: 16 MB of records that wait, one row group and one file (`files.py`), whatever the range is.
"""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.corpus.kafka.cluster import Kafka, explain_failure, open_consumer
from pipelines.corpus.kafka.files import Message, create_files
from pipelines.corpus.kafka.ranges import Range, describe_loss
from pipelines.storage import Folder
from pipelines.stores import current

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError

_POLL_SECONDS, _POLL_RECORDS = 1.0, 32
"""Records are handed over by 32, because they may have a megabyte each and more."""


class Landed(NamedTuple):
    """What a task did."""

    num_records: int
    """In files that it created; other tasks may have created others."""
    skipped: tuple[Range, ...]
    """Offsets that Kafka had deleted."""


def land_ranges(kafka: Kafka, topic: str, path: str, ranges: Sequence[Range]) -> Landed:
    """Create the files of the ranges in the folder `path`; those that are there stay.

    Raises ValueError if offsets were lost, ConnectionError if the brokers do not answer for
    storage.patience_seconds.
    """
    folder, reader = Folder(path), Reader(kafka, topic)
    try:
        num_records = sum(create_files(folder, part, reader.read) for part in ranges)
    finally:
        reader.close()
    return Landed(num_records, tuple(reader.skipped))


class Reader:
    """Reads ranges of one topic, one after the other."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._seen: list[KafkaError] = []
        self._consumer: Consumer = open_consumer(kafka, self._seen)
        self.skipped: list[Range] = []

    def close(self) -> None:
        self._consumer.close()

    def read(self, part: Range) -> Iterator[Message]:
        """The records of a range, by offset."""
        from confluent_kafka import KafkaError

        at = part.first
        self._assign(part.partition, at)
        patience = current().patience_seconds
        deadline = time.monotonic() + patience
        while at < part.stop:
            for message in self._consumer.consume(_POLL_RECORDS, _POLL_SECONDS):
                error = message.error()
                if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
                    at = self._pass_deleted(part, at)
                    break
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise explain_failure(self._kafka, error, self._seen)
                offset = message.offset()
                if message.partition() != part.partition or offset is None or offset < at:
                    continue  # asked for before the consumer was sent elsewhere
                at, deadline = offset, time.monotonic() + patience
                if at >= part.stop:
                    return
                if error is None:
                    yield _convert(message)
                    at += 1
            if time.monotonic() > deadline:
                raise self._describe_silence(part, at)

    def _assign(self, partition: int, offset: int) -> None:
        from confluent_kafka import TopicPartition

        self._consumer.assign([TopicPartition(self._topic, partition, offset)])

    def _pass_deleted(self, part: Range, at: int) -> int:
        """The offset to go on at, because `at` is not there any more."""
        from confluent_kafka import TopicPartition

        oldest, end = self._watch(TopicPartition(self._topic, part.partition))
        if oldest <= at:
            raise ValueError(
                f"topic {self._topic}: partition {part.partition} ends at offset {end:,}, before {at:,}: it "
                "was created again or lost records; run the stage again to see which"
            )
        lost = Range(part.partition, at, min(oldest, part.stop))
        if self._kafka.lost_offsets == "stop":
            raise ValueError(f"topic {self._topic}: {describe_loss([lost])}")
        self.skipped.append(lost)
        self._assign(part.partition, lost.stop)
        return lost.stop

    def _watch(self, place: Any) -> tuple[int, int]:
        from confluent_kafka import KafkaException

        try:
            first, stop = self._consumer.get_watermark_offsets(place, timeout=current().patience_seconds or 5)
        except KafkaException as error:
            raise explain_failure(self._kafka, error.args[0], self._seen) from None
        return first, stop

    def _describe_silence(self, part: Range, at: int) -> ConnectionError:
        last = f"; {self._seen[-1].str()}" if self._seen else ""
        return ConnectionError(
            f"topic {self._topic} at {self._kafka.servers}: partition {part.partition} gave nothing for "
            f"{current().patience_seconds:g} s at offset {at:,} of {part.stop - 1:,}{last}; run the stage "
            "again when the brokers are well"
        )


def _convert(message: Any) -> Message:
    kind, timestamp_ms = message.timestamp()
    return Message(
        offset=message.offset(),
        timestamp_ms=timestamp_ms if kind else None,
        key=message.key(),
        value=message.value(),
        headers=message.headers() or [],
    )
