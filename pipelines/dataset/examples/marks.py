"""Marks: single private-use characters that stand for texts while a template is rendered.

A template that is rendered with marks in place of the contents writes each mark where it writes the content.
So every character of the real rendering has a known origin: a certain character of a certain message, or the
template. That holds only if the template treats a mark as it treats the content. So the contents are put back
and the result must equal the real rendering; and there are three ways to mark, from strict to lenient:

    whole     one mark per content
    trimmed   white space at both ends stays, because templates trim
    split     strings that the template compares or splits at, such as </think>, stay as well
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

GENERATION_START, GENERATION_STOP = "\ufdd0", "\ufdd1"
"""Around what a template writes inside {% generation %}. Unicode keeps these two for private use."""
FIRST, NUM = 0xF0000, 0x10000 - 2
"""The first mark and the number of marks: a private plane without its last two, which are no characters."""
_JSON = 0x10000
"""Added to a mark: stands for the text as it looks within a JSON string."""
_MARK = re.compile("[\U000f0000-\U000ffffd]")
_SPLIT = re.compile("([\ufdd0\ufdd1\U000f0000-\U0010ffff])")


class Piece(NamedTuple):
    """What one mark stands for."""

    message: int
    """Number of the message."""
    start: int
    """Place of the text in the content."""
    text: str


class Traced(NamedTuple):
    """A rendering with the origin of its characters; arrays are (num_chars,) int32."""

    text: str
    message: np.ndarray
    """Number of the message whose content the character is from; -1 = the template wrote it."""
    place: np.ndarray
    """Place in that content; -1 = nowhere (the template, or a content written as JSON)."""
    ends: np.ndarray
    """(number of characters of the rendering with marks + 1,) where each of them begins in `text`."""
    generated: list[tuple[int, int]]
    """First character and last + 1 of every {% generation %} block."""


class Marks:
    """The marks of one conversation."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []

    def hide(self, contents: Sequence[str]) -> list[str]:
        """A mark for each content."""
        return self.replace(contents, trims=False)

    def replace(
        self,
        contents: Sequence[str],
        *,
        trims: bool,
        keeps: Iterable[str] = (),
        forbids: Callable[[str], bool] = lambda text: False,
    ) -> list[str]:
        """The contents with marks in place of their texts, but for what has to stay. What `forbids` finds
        must not be in what stays: such a content becomes one mark.

        Raises ValueError if there are more texts than marks.
        """
        kept = sorted(keeps, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, kept))) if kept else None
        replaced = []
        for number, text in enumerate(contents):
            num_pieces = len(self._pieces)
            written = self._replace_one(number, text, trims, pattern)
            if forbids(written) or len(self._pieces) == num_pieces:  # or nothing but what has to stay
                del self._pieces[num_pieces:]
                written = self._replace_one(number, text, trims, None)
            replaced.append(written)
        return replaced

    def _replace_one(self, message: int, text: str, trims: bool, pattern: re.Pattern[str] | None) -> str:
        written, start = [], 0
        for found in pattern.finditer(text) if pattern else ():
            written += [self._mark(message, start, text[start : found.start()], trims), found[0]]
            start = found.end()
        return "".join([*written, self._mark(message, start, text[start:], trims)])

    def _mark(self, message: int, start: int, text: str, trims: bool) -> str:
        core = text.strip() if trims else text
        if not core:
            return text
        if len(self._pieces) == NUM:
            raise ValueError(f"the messages have more than {NUM:,} pieces of text; split the conversation")
        first = text.index(core)
        self._pieces.append(Piece(message, start + first, core))
        return f"{text[:first]}{chr(FIRST + len(self._pieces) - 1)}{text[first + len(core) :]}"

    def put_back(self, written: str, contents: Sequence[str]) -> Traced:
        """The rendering with texts in place of the marks. O(characters).

        Raises ValueError if the template wrote a mark of its own, or nests {% generation %} blocks.
        """
        parts = _SPLIT.split(written)  # what the template wrote, a mark, what the template wrote, ...
        texts, messages, places, ends = [], [], [], [np.zeros(1, np.int64)]
        generation_ends: list[int] = []
        size = 0
        for number, part in enumerate(parts):
            if part in (GENERATION_START, GENERATION_STOP):
                is_open = len(generation_ends) % 2 == 1
                if is_open and part == GENERATION_START:
                    raise ValueError("nests {% generation %} blocks; leave out the inner ones")
                if not is_open and part == GENERATION_STOP:
                    raise _refuse_mark(part)
                generation_ends.append(size)
                continue
            if number % 2:
                text, message, place = self._read(part)
                ends.append(np.array([size + len(text)]))
            else:
                text, (message, place) = part, self._find_kept(parts, number, contents)
                ends.append(np.arange(size + 1, size + len(text) + 1))
            texts.append(text)
            messages.append(np.full(len(text), message, np.int32))
            places.append(place + np.arange(len(text)) if place >= 0 else np.full(len(text), -1))
            size += len(text)
        if len(generation_ends) % 2:
            raise _refuse_mark(GENERATION_START)
        return Traced(
            "".join(texts),
            np.concatenate(messages),
            np.concatenate(places).astype(np.int32),
            np.concatenate(ends),
            list(zip(generation_ends[::2], generation_ends[1::2], strict=True)),
        )

    def _read(self, mark: str) -> tuple[str, int, int]:
        """(text, message, place in its content) of a mark."""
        number = (ord(mark) - FIRST) % _JSON
        if number >= len(self._pieces):
            raise _refuse_mark(mark)
        piece = self._pieces[number]
        if ord(mark) >= FIRST + _JSON:
            return json.dumps(piece.text, ensure_ascii=False)[1:-1], piece.message, -1
        return piece.text, piece.message, piece.start

    def _find_kept(self, parts: list[str], number: int, contents: Sequence[str]) -> tuple[int, int]:
        """(message, place in its content) of a part without marks: -1, -1 = the template wrote it. If it
        stands between two neighbouring pieces, and equals what was kept between them, it is the content's."""
        if not parts[number] or not 0 < number < len(parts) - 1:
            return -1, -1
        left, right = (ord(parts[place]) - FIRST for place in (number - 1, number + 1))
        if left < 0 or right != left + 1 or right >= len(self._pieces):
            return -1, -1
        before, after = self._pieces[left], self._pieces[right]
        stop = before.start + len(before.text)
        is_kept = (
            before.message == after.message and contents[before.message][stop : after.start] == parts[number]
        )
        return (before.message, stop) if is_kept else (-1, -1)


def _refuse_mark(mark: str) -> ValueError:
    return ValueError(f"writes the private character U+{ord(mark):X}; remove it")


def mark_as_json(text: str) -> str:
    """A JSON text with marks in its strings: each becomes the mark of its text as JSON writes it."""
    return _MARK.sub(lambda found: chr(ord(found[0]) + _JSON), text)


def find_reserved(text: str) -> str | None:
    """A character of a template that would be taken for a mark; None = there is none."""
    found = _SPLIT.search(text)
    return found[0] if found else None
