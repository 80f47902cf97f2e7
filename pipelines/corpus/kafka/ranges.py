"""Which offsets of a topic are read next, and how tasks share them. Plain numbers; knows no broker and no
file.

A `Claim` names for each partition the offsets [first, stop) that one round reads. Claims are numbered, and of
each number there is one (`claims.py`), so the offsets of a topic are claimed once and without a gap, whatever
number of drivers there is and whenever they are killed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

LostOffsets = Literal["stop", "skip"]
"""What to do about offsets that Kafka deleted before they were read."""
RANGE_OFFSETS = 50_000
"""Offsets that a task reads: 100 MB of texts of 2 kB."""


class Topic(NamedTuple):
    """A topic as it is now."""

    id: str
    """Another one if the topic is deleted and created again."""
    first: Mapping[int, int]
    """Partition -> oldest offset that is there."""
    stop: Mapping[int, int]
    """Partition -> offset behind the last one that no open transaction can change."""


class Range(NamedTuple):
    """Offsets [first, stop) of one partition."""

    partition: int
    first: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """The offsets of one round."""

    number: int
    """From 1 on."""
    topic_id: str
    ranges: tuple[Range, ...]
    """One for each partition that the topic has, by number; empty ones too."""
    skipped: tuple[Range, ...] = ()
    """Offsets that Kafka had deleted, and that nobody will read."""
    range_offsets: int = RANGE_OFFSETS
    """Offsets that a task reads."""

    @property
    def num_offsets(self) -> int:
        return sum(each.stop - each.first for each in self.ranges)

    def cut(self) -> Iterator[Range]:
        """The ranges, cut for tasks. Depends on the claim alone, so that another driver cuts as well."""
        for partition, first, stop in self.ranges:
            for start in range(first, stop, self.range_offsets):
                yield Range(partition, start, min(start + self.range_offsets, stop))

    def encode(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "number": self.number,
            "topic_id": self.topic_id,
            "range_offsets": self.range_offsets,
            "ranges": [list(each) for each in self.ranges],
            "skipped": [list(each) for each in self.skipped],
        }


def decode_claim(content: Mapping[str, Any]) -> Claim:
    """The claim that `Claim.encode` wrote. Raises KeyError or TypeError for other content."""
    return Claim(
        number=content["number"],
        topic_id=content["topic_id"],
        ranges=tuple(Range(*each) for each in content["ranges"]),
        skipped=tuple(Range(*each) for each in content["skipped"]),
        range_offsets=content["range_offsets"],
    )


@dataclass(slots=True)
class _Next:
    """The ranges of the next claim, partition by partition."""

    ranges: list[Range] = field(default_factory=list)
    skipped: list[Range] = field(default_factory=list)


def plan_claim(last: Claim | None, topic: Topic, lost_offsets: LostOffsets) -> Claim | None:
    """The claim after `last`; None if there is nothing to read or to note.

    The first claim of a topic (last = None) starts at the oldest offsets that are there, and is made for an
    empty topic too: what Kafka deletes from then on counts as lost. A partition that is added later starts
    at 0.

    Raises ValueError if the topic is another one than before, if offsets went back, or if offsets were lost
    and `lost_offsets` is stop.
    """
    if last is not None and last.topic_id != topic.id:
        raise ValueError(
            f"its id is {topic.id} and was {last.topic_id}: the topic was deleted and created again, or "
            "corpus.kafka.servers names another cluster, and the same offsets are other records now. To read "
            "it, add a source with another name and another path. To keep the documents of the old one, give "
            "this source options.land: false"
        )
    wanted = {} if last is None else {each.partition: each.stop for each in last.ranges}
    if gone := sorted(set(wanted) - set(topic.stop)):
        raise ValueError(f"partition {gone[0]} is gone; {_GO_ON_ELSEWHERE}")
    found = _Next()
    for partition in sorted(topic.stop):
        oldest = topic.first[partition]
        _add_range(found, partition, oldest if last is None else wanted.get(partition, 0), topic)
    if found.skipped and lost_offsets == "stop":
        raise describe_loss(found.skipped)
    if last is not None and not found.skipped and all(each.first == each.stop for each in found.ranges):
        is_known = {each.partition for each in found.ranges} == set(wanted)
        if is_known:
            return None
    return Claim(
        number=1 if last is None else last.number + 1,
        topic_id=topic.id,
        ranges=tuple(found.ranges),
        skipped=tuple(found.skipped),
    )


def _add_range(found: _Next, partition: int, wanted: int, topic: Topic) -> None:
    first, stop = max(wanted, topic.first[partition]), topic.stop[partition]
    if stop < wanted:
        raise ValueError(
            f"partition {partition} ends at offset {stop:,}, but offsets up to {wanted - 1:,} were read: the "
            f"cluster has lost records; {_GO_ON_ELSEWHERE}"
        )
    if first > wanted:
        found.skipped.append(Range(partition, wanted, first))
    found.ranges.append(Range(partition, first, max(first, stop)))


_GO_ON_ELSEWHERE = (
    "to read what is there now, add a source with another name and another path. To keep the documents that "
    "there are, give this source options.land: false"
)


def describe_loss(lost: list[Range]) -> ValueError:
    """The error for offsets that Kafka deleted before they were read."""
    places = ", ".join(f"{each.first:,} to {each.stop - 1:,} of partition {each.partition}" for each in lost)
    return ValueError(
        f"Kafka deleted offsets before they were read: {places}. To go on without them: "
        "corpus.kafka.lost_offsets=skip. To lose no more, read more often or raise retention.ms of the topic"
    )
