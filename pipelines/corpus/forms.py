"""Unicode's normal forms in linear time.

To bring a text into a normal form, the combining marks behind a letter are sorted, and Python's sort takes
the square of their number: 40,000 marks take seconds, a record of 16 MiB days. No language puts more than a
few marks on a letter (Unicode's stream-safe format has room for 30), so longer runs are no text, and stay as
they are.
"""

import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

MAX_MARKS = 1_000
"""Marks in a row that are sorted."""
_BECOME_MARKS = "\u0f73\u0f75\u0f81\uff9e\uff9f"
"""No marks themselves, but their normal forms are: Tibetan vowels, Japanese marks of half width."""


def to_form(form: Literal["NFC", "NFKC"], text: str) -> str:
    """The text in a normal form, but for runs of more than MAX_MARKS marks, which stay as they are."""
    if len(text) <= MAX_MARKS or not _may_have_long_run(form, text):
        return unicodedata.normalize(form, text)
    return "".join(
        piece if is_run else unicodedata.normalize(form, piece) for is_run, piece in _split_runs(text)
    )


def _may_have_long_run(form: Literal["NFC", "NFKC"], text: str) -> bool:
    """Whether there may be more marks in a row than are sorted, and not in order yet."""
    # In NFD and NFKD all marks are in order; to ask is as quick as to copy the text.
    if unicodedata.is_normalized("NFD" if form == "NFC" else "NFKD", text):
        return False
    import numpy as np

    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return int(_find_marks()[codes].sum(dtype=np.int64)) > MAX_MARKS


@cache
def _find_marks() -> "np.ndarray":
    """1 for each code point that is a mark, else 0. Takes 0.2 s, and few sources hold texts that need it."""
    import numpy as np

    return np.array([_is_mark(chr(code)) for code in range(sys.maxunicode + 1)], np.uint8)


def _is_mark(character: str) -> bool:
    return unicodedata.combining(character) > 0 or character in _BECOME_MARKS


def _split_runs(text: str) -> Iterator[tuple[bool, str]]:
    """(whether it is a run of too many marks, piece) in order."""
    waiting = list[str]()
    for are_marks, characters in groupby(text, key=_is_mark):
        piece = "".join(characters)
        if are_marks and len(piece) > MAX_MARKS:
            yield False, "".join(waiting)
            yield True, piece
            waiting = []
        else:
            waiting.append(piece)
    yield False, "".join(waiting)
