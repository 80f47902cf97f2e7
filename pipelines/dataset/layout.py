"""The groups that documents are packed in: a pure function of the kept documents. No Spark here.

A file with much text has groups of its own, a power of two of them, and a hash of doc_id tells which one a
document is in. The other files of a source share groups by a hash of their name; their number, a power of
two, depends on the bytes of all of them. So a new file makes or touches few groups, and the rest stays as it
is until the small files of a source have doubled.

The number of a group is a hash of what it holds, so it never depends on other groups. Two groups may get one
number (1 table in 5 of 31,000 groups, 1 TB): then they share a task, a file and the positions, and are built
together; no sequence holds documents of two sources even then.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pipelines.dataset.spark_hash import hash_modulo

POSITION_BITS = 32
"""sequence_id = group << POSITION_BITS | position in the group."""
GROUP_BITS = 31
OWN_FRACTION = 4
"""A file from group_bytes / OWN_FRACTION has groups of its own: adding it rebuilds nothing else. Smaller
groups of their own would waste more places of best_fit: 0.2 % at 4 MiB, 0.1 % at 16 MiB."""

DOCUMENT_BYTES = 512
"""Bytes that a document takes in a task besides its text, roughly."""
LAYOUT_REVISION = 1
"""Part of the settings of sequences: an increment computes the layout that the table was built with. Raise it
with every change that gives equal documents other groups, also of DOCUMENT_BYTES."""

Place = tuple[str, str | None]
"""(source, file), or (source, None): all files of the source that have no groups of their own."""
Files = Collection[tuple[str, str]]
"""(source, file)"""


@dataclass(frozen=True)
class Layout:
    """The groups of a table of documents."""

    places: Mapping[Place, tuple[int, ...]]
    """Numbers of the groups of a place; a hash modulo their number tells which one."""

    @cached_property
    def groups(self) -> list[int]:
        """All numbers, ascending."""
        return sorted({number for numbers in self.places.values() for number in numbers})


def lay_out_groups(place_bytes: Mapping[Place, int], group_bytes: int) -> Layout:
    """The layout for so many bytes of documents at each place."""
    return Layout(
        {
            (source, file): tuple(
                _number_group(source, file, part) for part in range(count_parts(num_bytes, group_bytes))
            )
            for (source, file), num_bytes in place_bytes.items()
        }
    )


def min_own_bytes(group_bytes: int) -> int:
    """Bytes of documents from which a file has groups of its own."""
    return -(-group_bytes // OWN_FRACTION)


def count_parts(num_bytes: int, group_bytes: int) -> int:
    """The power of two whose parts are nearest to group_bytes: at most 1.41 times as large, and at least 0.7
    times if there are two."""
    parts = 1
    while num_bytes**2 > 2 * (parts * group_bytes) ** 2:
        parts *= 2
    return parts


def find_moved(old: Layout, new: Layout, *, shared_before: Files = (), shared_now: Files = ()) -> set[int]:
    """Groups, of both layouts, that a document may have left or joined although it did not change.

    `shared_before`: files with groups of their own in the new layout that had documents in shared ones;
    `shared_now`: the reverse.
    """
    moved = set(_list_changed(old, new))
    for layout, files in ((old, shared_before), (new, shared_now)):
        for source, file in files:
            groups = layout.places[source, None]
            moved.add(groups[hash_modulo(file, len(groups))])
    return moved


def _list_changed(old: Layout, new: Layout) -> Iterator[int]:
    for place in old.places.keys() | new.places.keys():
        before, after = old.places.get(place, ()), new.places.get(place, ())
        if before != after:
            yield from (*before, *after)


def _number_group(source: str, file: str | None, part: int) -> int:
    named = json.dumps([source, file, part], ensure_ascii=False).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "big") >> (64 - GROUP_BITS)
