"""What every packing method takes and gives: units in, rows with one segment per unit (or piece of a unit)
out. NumPy only."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pipelines.dataset.examples.example import Example, Unit


class Segment(NamedTuple):
    """A run of tokens within a row that comes from one unit of one document; tokens of other segments are
    invisible to it."""

    doc_id: str
    first_token: int
    """Place in the row."""
    num_tokens: int
    char_start: int
    """First character of the document's text in the run; 0, 0 = the run holds special tokens only."""
    char_end: int


class PackedSequence(NamedTuple):
    """One row. Arrays are (num_tokens,)."""

    input_ids: np.ndarray
    is_target: np.ndarray
    num_bytes: np.ndarray
    """Bytes of each token."""
    segments: list[Segment]
    label: int | None
    num_cut_tokens: int
    """Tokens of the document that did not fit."""


class Packer(Protocol):
    """A packing method."""

    def __call__(self, examples: Iterable[Example], *, length: int) -> Iterator[PackedSequence]:
        """Rows of at most `length` tokens. Deterministic: equal examples in equal order give equal rows."""
        ...


def slice_unit(unit: Unit, start: int, stop: int) -> Unit:
    """Tokens start .. stop - 1 of a unit. O(1): views."""
    return Unit(*(array[start:stop] for array in unit))


def join_units(
    units: Sequence[tuple[str, Unit]], *, label: int | None = None, num_cut_tokens: int = 0
) -> PackedSequence:
    """One row from (doc_id, unit) pairs, each of at least one token; each becomes one segment."""
    columns = [np.concatenate(arrays) for arrays in zip(*(unit for _, unit in units), strict=True)]
    ids, is_target, _, _, num_bytes = columns
    segments: list[Segment] = []
    first_token = 0
    for doc_id, unit in units:
        segments.append(_to_segment(doc_id, unit, first_token))
        # A unit cut in two: the second piece does not see the first, so its first token has no context
        # either.
        is_target[first_token] = False
        first_token += len(unit.input_ids)
    return PackedSequence(ids, is_target, num_bytes, segments, label, num_cut_tokens)


def _to_segment(doc_id: str, unit: Unit, first_token: int) -> Segment:
    in_text = unit.char_start >= 0
    start, end = (0, 0)
    if in_text.any():
        start, end = int(unit.char_start[in_text].min()), int(unit.char_end[in_text].max())
    return Segment(doc_id, first_token, len(unit.input_ids), start, end)
