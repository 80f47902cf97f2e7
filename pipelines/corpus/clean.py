"""One form for each text, so that equal texts are equal bytes, whichever program saved them.

`normalise` is for every text; the steps of `Cleaning` are for sources that ask for them, and are counted.
"""

import re
from collections import Counter

from pipelines.corpus.cleaning import Cleaning
from pipelines.corpus.forms import to_form
from pipelines.corpus.pii import replace_pii

_LINE_SEPARATORS = re.compile("[\\x0b\\x0c\\x1c-\\x1e\\x85\\u2028\\u2029]")
# Control characters but tab and LF; soft hyphen, zero-width space, word joiner, byte order mark, direction
# marks. The joiners U+200C and U+200D stay: Persian, Indic scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\\x00-\\x08\\x0e-\\x1f\\x7f-\\x9f\\xad\\u200b\\u200e\\u200f\\u202a-\\u202e\\u2060-\\u2069\\ufeff]"
)
_SPACES = re.compile("[\\xa0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000]")
# From the start of a run of spaces only: from each space on, a long run takes the square of its length.
_SPACES_AT_LINE_END = re.compile("(?<![ \\t])[ \\t]++(?=\\n)")
_BLANK_LINES = re.compile("\\n{3,}")
# Signs of a wrong encoding are up to seven characters, and one of them at least is not ASCII: of long runs
# of ASCII, the ends are enough to look for them.
_ASCII = re.compile("([\\x00-\\x7f]{8})[\\x00-\\x7f]++(?<=([\\x00-\\x7f]{8}))")


def normalise(text: str) -> str:
    """Unicode NFC, line ends LF, outer white space removed (Unicode's white space, so the ideographic space
    U+3000 too).

    NFC keeps Chinese text and full-width forms as they are, except the compatibility ideographs (U+F900 to
    U+FAFF, U+2F800 to U+2FA1F): Unicode defines each of them as equal to a unified ideograph, which replaces
    it.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip() if text.isascii() else to_form("NFC", text).strip()


class Cleaner:
    """The steps of one source. Counts what they changed until the counts are taken."""

    def __init__(self, cleaning: Cleaning) -> None:
        self._cleaning = cleaning
        self._counts = Counter[str]()

    def clean(self, text: str) -> str:
        """The text after all steps, normalised. Cleaning a clean text changes nothing, except with c4_lines:
        see `c4_lines.py`."""
        cleaning = self._cleaning
        if cleaning.mojibake:
            text = self._note("mojibake", text, repair_encoding(text))
        text = normalise(text)
        if cleaning.control_characters:
            text = self._note("control_characters", text, normalise(remove_control_characters(text)))
        if cleaning.white_space:
            text = self._note("white_space", text, normalise(tidy_white_space(text)))
        if cleaning.c4_lines:
            text = self._remove_lines(text, cleaning.c4_lines)
        if cleaning.pii:
            text, found = replace_pii(text, cleaning.pii)
            self._counts.update(found)
        return text

    def take_counts(self) -> dict[str, int]:
        """Since the last call: texts that each step changed, lines and citations that c4_lines removed, and
        placeholders by kind."""
        if not self._counts:
            return {}
        counts, self._counts = dict(self._counts), Counter()
        return counts

    def _remove_lines(self, text: str, variant: str) -> str:
        from pipelines.corpus.c4_lines import remove_lines  # NumPy, and most sources do not ask for it

        text, found = remove_lines(text, variant)
        self._counts.update(found)
        return normalise(text)

    def _note(self, step: str, before: str, after: str) -> str:
        if before != after:
            self._counts[step] += 1
        return after


def repair_encoding(text: str) -> str:
    """Text that was decoded with a wrong encoding, decoded with the right one; other text as it is."""
    if text.isascii():
        return text
    from ftfy import badness, fix_encoding  # 0.1 s to load, and most sources do not ask for it

    # ftfy asks this too before it changes anything, but of the whole text: 16 times as slow for English.
    return fix_encoding(text) if badness.is_bad(_ASCII.sub(r"\1\n\2", text)) else text


def remove_control_characters(text: str) -> str:
    """Without control characters and invisible marks; other line separators become LF."""
    return _INVISIBLE.sub("", _LINE_SEPARATORS.sub("\n", text))


def tidy_white_space(text: str) -> str:
    """Every space U+0020, no spaces before a line end, one blank line at most. Indentation stays."""
    return _BLANK_LINES.sub("\n\n", _SPACES_AT_LINE_END.sub("", _SPACES.sub(" ", text)))
