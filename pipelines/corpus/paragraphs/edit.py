"""A text without its copied paragraphs, and the evidence of what was removed: places and hashes, no text."""

from collections.abc import Mapping
from typing import NamedTuple

from pipelines.corpus.paragraphs.pieces import hash_pieces, leave_out, split_text
from pipelines.corpus.paragraphs.select import mark_copies
from pipelines.corpus.paragraphs.settings import Paragraphs


class Copied(NamedTuple):
    """What a task knows of the texts of a block: `find.py` says how many these are, and `Scattered` puts the
    next block in place of the last. Memory: about 200 bytes per paragraph."""

    owners: dict[bytes, bytes]
    """Copied paragraph -> content of the first text that has it."""
    whole: set[bytes]
    """Contents of texts that stay whole, because a split that loses nothing has an equal one."""


REMOVED_BYTES = 270
"""What a `Removed` takes in memory: the tuple, three numbers, 32 digits, and its place in a list."""


class Removed(NamedTuple):
    """A paragraph that a text lost."""

    paragraph: int
    """Its number in the text of before, from 0."""
    start: int
    """Its first character there."""
    num_chars: int
    hash: str
    """32 hex digits, as in `pieces.py`."""


class Cut(NamedTuple):
    """What a text lost."""

    num_chars: int
    """Of the text before."""
    removed: list[Removed]
    """In order; at least one."""


def edit_text(
    text: str, content: bytes, copied: Mapping[bytes, bytes], settings: Paragraphs
) -> tuple[str, list[Removed]]:
    """The text as it stays, and what it lost, in order. `text` is normalised, and so is the result.

    `content` is the hash of the text, `copied` what `find_copied` gives; the paragraphs of this text are
    enough. Not for a text that stays whole, see `mark_copies`.
    """
    if not copied:
        return text, []
    pieces = split_text(text, settings.unit)
    hashes = hash_pieces(text, pieces, settings.min_bytes)
    gone = mark_copies(hashes, content, copied, settings.survivor)
    if not any(gone):
        return text, []
    removed = [
        Removed(number, piece.start, piece.end - piece.start, (digest or b"").hex())
        for number, (piece, digest, is_gone) in enumerate(zip(pieces, hashes, gone, strict=True))
        if is_gone
    ]
    return leave_out(text, pieces, gone), removed
