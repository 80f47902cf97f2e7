"""What every packing method takes and gives: units in, rows of pieces out. NumPy only.

A packing method only decides which pieces of which units share a row. What follows from that (segments,
targets, bytes) is computed for many rows at once by `join_rows`, without a Python step per token.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pipelines.dataset.arrays import find_runs
from pipelines.dataset.examples.example import Example, Unit


class PackedSequence(NamedTuple):
    """One row."""

    pieces: list[tuple[str, Unit]]
    """doc_id and a run of tokens of that document, at least one token each; every piece becomes a segment,
    and its tokens are invisible to those of other segments."""
    label: int | tuple[int, ...] | None = None
    """Of the example."""
    num_cut_tokens: int = 0
    """Tokens of documents that did not fit; each document's are counted in the row where it begins."""
    num_continued: int = 0
    """Pieces whose unit begins in another row: cuts, after which the model does not see what came before."""


class PackedRows(NamedTuple):
    """Some rows with their values end to end, as Arrow holds them. `num_` arrays say how many of the values
    belong to each row."""

    num_tokens: np.ndarray
    """(num_rows,)"""
    input_ids: np.ndarray
    """(all tokens,) int32"""
    num_runs: np.ndarray
    """(num_rows,)"""
    run_first_token: np.ndarray
    """(all runs,) place in its row of each run of targets."""
    run_num_tokens: np.ndarray
    num_targets: np.ndarray
    """(num_rows,) target tokens, and one more for a class or a set of classes."""
    num_bytes: np.ndarray
    """(num_rows,) bytes of the targets, or of the whole text behind a class."""
    num_segments: np.ndarray
    """(num_rows,)"""
    segment_doc_ids: list[str]
    """One per segment, as are the arrays below."""
    segment_first_token: np.ndarray
    """Place in the row."""
    segment_num_tokens: np.ndarray
    segment_char_start: np.ndarray
    """First character of the document's text in the segment; 0, 0 = it holds special tokens only."""
    segment_char_end: np.ndarray
    labels: list[int | None]
    """One per row; None = it has no class, or a set of them."""
    label_sets: list[tuple[int, ...] | None]
    """One per row; None = it has no set of classes."""
    num_cut_tokens: np.ndarray
    """(num_rows,)"""
    num_continued: np.ndarray
    """(num_rows,)"""


class Packer(Protocol):
    """A packing method."""

    def __call__(self, examples: Iterable[Example], *, length: int) -> Iterator[PackedSequence]:
        """Rows of at most `length` tokens; where a row holds the units of one document, `length` bounds each.
        Deterministic: equal examples in equal order give equal rows."""
        ...


def slice_unit(unit: Unit, start: int, stop: int) -> Unit:
    """Tokens start .. stop - 1 of a unit. O(1): views."""
    ids, is_target, char_start, char_end, num_bytes = unit
    piece = slice(start, stop)
    return Unit(ids[piece], is_target[piece], char_start[piece], char_end[piece], num_bytes[piece])


def join_rows(rows: Sequence[PackedSequence]) -> PackedRows:
    """The values of at least one row. O(tokens)."""
    pieces = [piece for row in rows for piece in row.pieces]
    columns = zip(*(unit for _, unit in pieces), strict=True)
    ids, is_target, char_start, char_end, num_bytes = (np.concatenate(column) for column in columns)
    sizes = np.array([len(unit.input_ids) for _, unit in pieces])  # (num_segments,)
    num_segments = np.array([len(row.pieces) for row in rows])  # (num_rows,)
    first = np.cumsum(sizes) - sizes  # (num_segments,) places among all tokens
    row_starts = first[np.cumsum(num_segments) - num_segments]  # (num_rows,)
    # A unit cut in two: the second piece does not see the first, so its first token has no context either.
    is_target[first] = False
    run_starts, run_sizes = find_runs(is_target)  # no run crosses the end of a row, whose first token is none
    row_of_run = np.searchsorted(row_starts, run_starts, side="right") - 1
    has_label = np.array([row.label is not None for row in rows])
    target_bytes = np.add.reduceat(np.where(is_target, num_bytes, 0), row_starts, dtype=np.int64)
    all_bytes = np.add.reduceat(num_bytes, row_starts, dtype=np.int64)
    num_targets = np.bincount(row_of_run, weights=run_sizes, minlength=len(rows)).astype(np.int64)
    segment_start, segment_end = _find_characters(char_start, char_end, first)
    return PackedRows(
        num_tokens=np.diff(row_starts, append=len(ids)),
        input_ids=ids,
        num_runs=np.bincount(row_of_run, minlength=len(rows)),
        run_first_token=run_starts - row_starts[row_of_run],
        run_num_tokens=run_sizes,
        num_targets=num_targets + has_label,
        num_bytes=np.where(has_label, all_bytes, target_bytes),
        num_segments=num_segments,
        segment_doc_ids=[doc_id for doc_id, _ in pieces],
        segment_first_token=first - np.repeat(row_starts, num_segments),
        segment_num_tokens=sizes,
        segment_char_start=segment_start,
        segment_char_end=segment_end,
        labels=[None if isinstance(row.label, tuple) else row.label for row in rows],
        label_sets=[row.label if isinstance(row.label, tuple) else None for row in rows],
        num_cut_tokens=np.array([row.num_cut_tokens for row in rows]),
        num_continued=np.array([row.num_continued for row in rows]),
    )


def _find_characters(
    char_start: np.ndarray, char_end: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(first character, last character + 1) of the segments that begin at the tokens `first`; 0, 0 where no
    token is in the text."""
    nowhere = np.iinfo(np.int32).max
    start = np.minimum.reduceat(np.where(char_start >= 0, char_start, nowhere), first)
    end = np.maximum.reduceat(np.where(char_start >= 0, char_end, 0), first)
    return np.where(start == nowhere, 0, start), end
