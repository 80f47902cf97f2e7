"""Documents end to end, cut every `length` tokens: every token once and in order, every row full but the
last. O(tokens)."""

from collections.abc import Iterable, Iterator

from pipelines.dataset.examples.example import Example, Unit
from pipelines.dataset.packing.packed import PackedSequence, slice_unit


def concatenate(examples: Iterable[Example], *, length: int) -> Iterator[PackedSequence]:
    """Rows of exactly `length` tokens, the last one shorter. A unit that crosses the end of a row continues
    in the next one."""
    row: list[tuple[str, Unit]] = []
    room, num_cut_tokens, num_continued = length, 0, 0
    for example in examples:
        num_cut_tokens += example.num_cut_tokens
        for unit in example.units:
            position = 0
            while position < len(unit.input_ids):
                stop = min(position + room, len(unit.input_ids))
                row.append((example.doc_id, slice_unit(unit, position, stop)))
                num_continued += position > 0
                room -= stop - position
                position = stop
                if room == 0:
                    yield PackedSequence(row, num_cut_tokens=num_cut_tokens, num_continued=num_continued)
                    row, room, num_cut_tokens, num_continued = [], length, 0, 0
    if row:
        yield PackedSequence(row, num_cut_tokens=num_cut_tokens, num_continued=num_continued)
