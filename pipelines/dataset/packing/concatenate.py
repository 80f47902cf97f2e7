"""Documents end to end, cut every `length` tokens: every token once and in order, every row full but the
last. O(tokens)."""

from collections.abc import Iterable, Iterator

from pipelines.dataset.examples.example import Example, Unit
from pipelines.dataset.packing.packed import PackedSequence, slice_unit


def concatenate(examples: Iterable[Example], *, length: int) -> Iterator[PackedSequence]:
    """Rows of exactly `length` tokens, the last one shorter. A unit that crosses the end of a row continues
    in the next one."""
    row: list[tuple[str, Unit]] = []
    room = length
    for example in examples:
        for unit in example.units:
            position = 0
            while position < len(unit.input_ids):
                stop = min(position + room, len(unit.input_ids))
                row.append((example.doc_id, slice_unit(unit, position, stop)))
                room -= stop - position
                position = stop
                if room == 0:
                    yield PackedSequence(row)
                    row, room = [], length
    if row:
        yield PackedSequence(row)
