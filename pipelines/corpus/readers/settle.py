"""Where the slices of cut gzip files really begin and end, and the offsets of their records.

A gzip file is cut by size, and each slice searches for its first member. The first reading of the files
tells where each slice found it, where it met the first member of the next slice, and how many decompressed
bytes lie between. Three things follow, on the driver, with a few numbers a slice:

1. If each slice begins where the one before ended, the slices together are the file. If they do not (a
   slice took bytes inside a member for the start of one), the file is read again as a whole.
2. The sum of the bytes before a slice is added to the offsets of its records, so offsets and ids are those
   of a file that is read as a whole.
3. The second reading gets the exact places. Slices without a member are left out.

So a file is not read an extra time to find its members, except by the slices that have none: they search
their own bytes. A test compares with files that are read as a whole.
"""

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.readers.slices import Slices
from pipelines.spark import persisted


class Found(NamedTuple):
    """What the first reading tells of one slice; as in `Extent`."""

    slice: int
    num_bytes: int
    first_member: int | None
    next_member: int | None


@contextmanager
def settle(
    positions: DataFrame, slices: Slices, read: Callable[[Slices], DataFrame]
) -> Iterator[tuple[DataFrame, Slices]]:
    """Positions with offsets and ids in the file, and the slices for the second reading.

    `read` gives the positions of slices, for files that must be read again.
    """
    if not slices.has_cut_gzip:
        yield positions, slices
        return
    rows = positions.where("num_bytes IS NOT NULL").select(*Found._fields).toArrow().sort_by("slice")
    settled, whole = place_slices(slices, [Found(**row) for row in rows.to_pylist()])
    placed = _describe_places(positions, slices, settled, whole)
    moved = positions.join(F.broadcast(placed), "slice", "left").where("is_whole IS NOT TRUE")
    moved = _move_offsets(moved).select(*positions.columns)
    if not whole:
        yield moved, settled
        return
    with persisted(read(_select_slices(settled, whole))) as again:
        yield moved.unionByName(again), settled


def place_slices(slices: Slices, found: list[Found]) -> tuple[Slices, set[int]]:
    """The slices with the places that were found, and the numbers of those that now stand for a whole file.

    `found` has all slices of the cut files, by number.
    """
    task, start, stop, base = slices.task[:], slices.start[:], slices.stop[:], slices.base[:]
    whole = set[int]()
    for _, group in groupby(found, key=lambda each: slices.file[each.slice]):
        numbers, chain = [], _Chain()
        for each in group:
            numbers.append(each.slice)
            if each.first_member is None:
                task[each.slice] = -1
                continue
            start[each.slice], base[each.slice] = each.first_member, chain.num_bytes
            stop[each.slice] = -1 if each.next_member is None else each.next_member
            chain.add(each)
        if not chain.is_complete:
            first, *others = numbers
            whole.add(first)
            start[first], stop[first], base[first] = 0, -1, 0
            for number in others:
                task[number] = -1
    return replace(slices, task=task, start=start, stop=stop, base=base, has_cut_gzip=False), whole


class _Chain:
    """Whether the slices of a file follow each other without gap or overlap."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._expected: int | None = 0
        self._fits = True

    def add(self, found: Found) -> None:
        self._fits &= found.first_member == self._expected
        self._expected = found.next_member
        self.num_bytes += found.num_bytes

    @property
    def is_complete(self) -> bool:
        return self._fits and self._expected is None


def _describe_places(positions: DataFrame, slices: Slices, settled: Slices, whole: set[int]) -> DataFrame:
    """(slice, moved_by, is_whole) of the slices whose positions change."""
    files = {slices.file[number] for number in whole}
    rows = [
        (number, base, slices.file[number] in files)
        for number, base in enumerate(settled.base)
        if base or slices.file[number] in files
    ]
    numbers, bases, flags = zip(*rows, strict=True) if rows else ((), (), ())
    table = {
        "slice": pa.array(numbers, pa.int32()),
        "moved_by": pa.array(bases, pa.int64()),
        "is_whole": pa.array(flags, pa.bool_()),
    }
    return positions.sparkSession.createDataFrame(pa.table(table))


def _move_offsets(positions: DataFrame) -> DataFrame:
    """The positions with `moved_by` added to the offsets of records, and ids made of these."""
    is_moved = F.col("moved_by").isNotNull() & F.col("num_lines").isNull()
    has_new_id = is_moved & F.col("doc_id").isNotNull() & ~F.col("has_key")
    offset = F.when(is_moved, F.col("offset") + F.col("moved_by")).otherwise(F.col("offset"))
    moved = positions.withColumn("offset", offset)
    return moved.withColumn("doc_id", F.when(has_new_id, _doc_id()).otherwise(F.col("doc_id")))


def _doc_id() -> Column:
    """As `ids.doc_id` computes it from a position."""
    place = F.concat_ws("\x1f", "source", F.lit("position"), F.col("offset").cast("string"), "file")
    return F.substring(F.sha2(place.cast("binary"), 256), 1, 32)


def _select_slices(slices: Slices, numbers: set[int]) -> Slices:
    """The slices, all others left out."""
    task = array("i", [task if number in numbers else -1 for number, task in enumerate(slices.task)])
    return replace(slices, task=task)
