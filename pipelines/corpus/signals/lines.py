"""Signals of lines and paragraphs: bullets, ellipses, copies, short lines, punctuation at the end.

A line is what str.split("\\n") gives; a blank line holds white space at most. A paragraph is a run of lines
without an empty one. Copies are what occurred before in the same text: the first one is not counted.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.corpus.signals.batch import Batch, Pieces, divide
from pipelines.corpus.signals.characters import STOP

_BULLETS = tuple(map(ord, "\u2022\u2023\u25e6\u2043\u25cf\u25aa\u25a0-*"))
_FEW_BULLETS = tuple(map(ord, "\u2022-"))
_ELLIPSIS, _PERIOD, _HASH, _LINE_BREAK = 0x2026, 0x2E, 0x23, 0x0A
SHORT_LINE_CHARS = 30


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a batch, with and without their outer white space."""

    whole: Pieces
    stripped: Pieces
    is_blank: np.ndarray


def find_lines(batch: Batch) -> Lines:
    whole = batch.split_lines()
    stripped = batch.strip(whole)
    return Lines(whole, stripped, stripped.length == 0)


def measure_lines(batch: Batch, lines: Lines) -> dict[str, np.ndarray]:
    """Fractions of lines and of characters, by signal."""
    document, filled = lines.whole.document, ~lines.is_blank
    num_lines, num_filled = batch.count(document), batch.count(document[filled])
    first = batch.codes[lines.stripped.start]
    bullets = batch.count(document[filled & np.isin(first, _BULLETS)])
    few_bullets = batch.count(document[filled & np.isin(first, _FEW_BULLETS)])
    ellipses = batch.count(document[filled & _end_in_ellipsis(batch, lines.stripped)])

    copies, copied_chars = _count_copies(batch, lines.whole.take(filled))
    num_breaks = batch.count_characters(batch.codes == _LINE_BREAK)
    whole = lines.whole.take(filled)
    has_stop = (batch.classes[np.maximum(whole.end - 1, 0)] & STOP) != 0
    is_short = whole.length <= SHORT_LINE_CHARS
    return {
        "num_lines": num_filled,
        "bullet_line_fraction": divide(bullets, num_filled),
        "bullet_all_line_fraction": divide(few_bullets, num_lines),
        "ellipsis_line_fraction": divide(ellipses, num_filled),
        "ellipsis_all_line_fraction": divide(ellipses, num_lines),
        "duplicate_line_fraction": divide(copies, num_filled),
        "duplicate_line_char_fraction": divide(copied_chars, batch.num_chars),
        "duplicate_line_char_fraction_of_lines": divide(copied_chars, batch.num_chars - num_breaks),
        "stop_line_fraction": divide(batch.count(whole.document[has_stop]), num_filled),
        "short_line_fraction": divide(batch.count(whole.document[is_short]), num_filled),
    }


def measure_paragraphs(batch: Batch, lines: Lines) -> dict[str, np.ndarray]:
    """Copies among paragraphs, as fractions of paragraphs and of characters."""
    filled = lines.whole.take(lines.whole.length > 0)
    # A paragraph starts where the line before is empty or belongs to another text: two line breaks and more.
    new = np.ones(len(filled.start), bool)
    new[1:] = (filled.start[1:] - filled.end[:-1] > 1) | (filled.document[1:] != filled.document[:-1])
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(new))[: len(first)] - 1
    paragraphs = Pieces(start=filled.start[first], end=filled.end[last], document=filled.document[first])
    copies, copied_chars = _count_copies(batch, paragraphs)
    return {
        "duplicate_paragraph_fraction": divide(copies, batch.count(paragraphs.document)),
        "duplicate_paragraph_char_fraction": divide(copied_chars, batch.num_chars),
    }


def count_marks(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes (#), ellipses (... without overlap, and U+2026) and line breaks by text."""
    hashes = batch.count_characters(batch.codes == _HASH)
    breaks = batch.count_characters(batch.codes == _LINE_BREAK)
    dots = batch.codes == _PERIOD
    edges = np.diff(dots.astype(np.int8), prepend=0, append=0)
    first, end = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    threes = batch.sum(batch.find_documents(first), (end - first) // 3)
    return hashes, threes + batch.count_characters(batch.codes == _ELLIPSIS), breaks


def _end_in_ellipsis(batch: Batch, pieces: Pieces) -> np.ndarray:
    last = np.maximum(pieces.end - 1, 0)
    dots = batch.codes == _PERIOD
    three = dots[last] & dots[np.maximum(last - 1, 0)] & dots[np.maximum(last - 2, 0)]
    return (batch.codes[last] == _ELLIPSIS) | (three & (pieces.length >= 3))


def _count_copies(batch: Batch, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
    """Pieces that occurred before in their text, and their characters, by text."""
    keys = batch.hash_within(pieces)
    _, first = np.unique(keys, return_index=True)
    is_copy = np.ones(len(keys), bool)
    is_copy[first] = False
    copied = pieces.take(is_copy)
    return batch.count(copied.document), batch.sum(copied.document, copied.length)
