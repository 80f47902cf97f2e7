"""A text -> its paragraphs with their hashes, and the text without some of them.

The hash is 128 bits of sha256 of the paragraph as UTF-8, with every run of white space as one space. So
wrapped and indented copies are equal, and nothing else is: case, marks and digits count. With 64 bits, two
of 10 billion different paragraphs would be expected to have the same hash, and one of them would be lost.

Cost: linear in the text. Memory: the pieces of one text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

HASH_BYTES = 16
_LINE = re.compile("[^\\n]+")


class Piece(NamedTuple):
    """A paragraph: characters [start, end) of its text. A line begins with its indentation."""

    start: int
    end: int


def split_text(text: str, unit: str) -> list[Piece]:
    """The paragraphs of a normalised text, in order: of unit line, each line that is not blank; of unit
    paragraph, each run of such lines. What is between two pieces is white space."""
    lines = (Piece(*found.span()) for found in _LINE.finditer(text) if not found[0].isspace())
    return list(lines if unit == "line" else _join_lines(lines))


def _join_lines(lines: Iterable[Piece]) -> Iterator[Piece]:
    joined: Piece | None = None
    for line in lines:
        if joined is not None and line.start == joined.end + 1:  # one line break, so no blank line between
            joined = Piece(joined.start, line.end)
            continue
        if joined is not None:
            yield joined
        joined = line
    if joined is not None:
        yield joined


def hash_pieces(text: str, pieces: Sequence[Piece], min_bytes: int) -> list[bytes | None]:
    """The hash of each piece; None = it has fewer bytes, and is not compared."""
    hashes = list[bytes | None]()
    for start, end in pieces:
        form = " ".join(text[start:end].split()).encode()
        hashes.append(sha256(form).digest()[:HASH_BYTES] if len(form) >= min_bytes else None)
    return hashes


def leave_out(text: str, pieces: Sequence[Piece], is_removed: Sequence[bool]) -> str:
    """The text without the removed pieces and the white space behind each. So two pieces that become
    neighbours are divided by what stood behind the first of them. Without outer white space.

    `pieces` are those of `split_text`.
    """
    if not pieces:
        return ""
    ends = [*(piece.start for piece in pieces[1:]), len(text)]
    kept = (
        text[piece.start : end] for piece, end, gone in zip(pieces, ends, is_removed, strict=True) if not gone
    )
    return "".join(kept).strip()
