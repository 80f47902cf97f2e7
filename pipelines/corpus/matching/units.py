"""Texts -> their words as hashes, with places and weights, in NumPy; and the hashes of runs of words.

A word is a run of letters, digits and marks, and of '_' between them; a character of a script without spaces
(Han, kana, Thai, Lao, Khmer, Burmese) is a unit of its own, as in near-duplicate search. Punctuation and
white space only separate. Texts are folded before: NFKC, without case and without characters that cannot be
seen, so "ＡＩ", "AI" and "ai" are equal.

A word weighs 5 and a character of its own 3: a dictionary cuts Chinese into words of 1.7 to 1.8 characters
(measured on CMRC 2018, TiDB's documentation and a classical novel). So a limit in words means about the same
for both, and a run of units that has the weight does not depend on the text around it, as words of a
dictionary would.

Cost: about 15 passes over 4 to 8 bytes a character. Memory: 200 bytes a character of a chunk of 256 Ki
characters, and 40 bytes a unit of the longest text.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipelines.corpus.forms import to_form
from pipelines.corpus.neardup.shingles import classify
from pipelines.corpus.signals.batch import Batch, Pieces, scramble
from pipelines.corpus.signals.characters import HAN
from pipelines.corpus.signals.words import cut_ideographs

WORD_WEIGHT, CHARACTER_WEIGHT = 5, 3
_UNDERSCORES = re.compile("_+")
_SIGNS = ("Sk", "Po", "Pc", "Lm", "So", "Sm")
"""Categories of characters that may be accents."""
_SEPARATOR, _WORD, _SINGLE = 0, 1, 2
"""As `classify` has them."""
_CHUNK_CHARS = 2**18
_LOOK_BACK = 4_096
"""Characters in which a place between two words is looked for, where a long text is cut."""
_BASE = 0xD6E8FEB86659FD93
"""Odd; 1 modulo 8 would shorten the period of its powers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """The units of some texts, in order. Arrays of equal length, (num_units,)."""

    texts: Sequence[str]
    """Folded."""
    hash: np.ndarray
    """uint64, equal for equal units."""
    start: np.ndarray
    """First character, as an index of its text."""
    end: np.ndarray
    """Last character + 1."""
    text: np.ndarray
    """Index of the text; ascending."""
    weight: np.ndarray
    begins_word: np.ndarray | None
    """Whether no word reaches over the start of the unit, by the dictionary for Han; None = not asked for."""

    def __len__(self) -> int:
        return len(self.hash)


def fold(text: str) -> str:
    """The form in which texts are compared: NFKC, without case, without characters that cannot be seen (soft
    hyphens, joiners, marks of direction, variation selectors). Accents that stand alone separate words, and
    so does '_', unless it is inside one."""
    if text.isascii():
        text = text.lower()
    else:
        unseen, accents = _find_odd_characters()
        text = to_form("NFKC", accents.sub(" ", unseen.sub("", text))).casefold()
    return _UNDERSCORES.sub(_keep_inside_words, text) if "_" in text else text


@cache
def _find_odd_characters() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(characters that cannot be seen, accents that stand alone). NFKC makes of such an accent a space and a
    combining mark, which would be part of a word."""
    by_category: dict[str, list[str]] = {}
    for character in map(chr, range(0x80, sys.maxunicode + 1)):
        by_category.setdefault(unicodedata.category(character), []).append(character)
    unseen = "".join(by_category["Cf"])
    signs = (character for name in _SIGNS for character in by_category[name])
    accents = "".join(c for c in signs if unicodedata.decomposition(c).startswith("<compat> 0020 "))
    selectors = "\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
    return re.compile(f"[{unseen}{selectors}]"), re.compile(f"[{accents}]")


def _keep_inside_words(underscores: re.Match[str]) -> str:
    """The underscores, if characters of a word stand on both sides, else a space."""
    text, kinds = underscores.string, classify()
    start, end = underscores.span()
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    return underscores[0] if all(c and kinds[ord(c)] == _WORD for c in (before, after)) else " "


def split_units(texts: Iterable[str], *, with_words: bool = False) -> Iterator[Units]:
    """The units of the texts, whole texts at a time, in order. `with_words` cuts Han by the dictionary."""
    waiting, size = list[str](), 0
    for text in map(fold, texts):
        if waiting and size + len(text) > _CHUNK_CHARS:
            yield _split(waiting, with_words)
            waiting, size = [], 0
        waiting.append(text)
        size += len(text)
    if waiting:
        yield _split(waiting, with_words)


def hash_runs(hashes: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The hashes of runs of units [first, end), uint64; equal for equal runs, wherever they stand.

    With powers p**i of an odd number, the running sum S of hash[i] * p**i modulo 2**64 gives the run as
    (S[end] - S[first]) * p**-first.
    """
    powers, inverses = _raise_base(len(hashes))
    sums = np.zeros(len(hashes) + 1, np.uint64)
    np.cumsum(hashes * powers[: len(hashes)], out=sums[1:])
    length = (end - first).astype(np.uint64)
    return scramble((sums[end] - sums[first]) * inverses[first] + length)


def _split(texts: Sequence[str], with_words: bool) -> Units:
    """The units of a chunk. A text that is longer than a chunk is alone in it, and split piece by piece."""
    parts, offset = [], 0
    if len(texts) > 1 or len(texts[0]) <= _CHUNK_CHARS:
        parts = [_split_batch(texts, with_words)]
    else:
        for piece in _cut(texts[0]):
            start, end, *others = _split_batch([piece], with_words)
            parts.append((start + offset, end + offset, *others))
            offset += len(piece)
    start, end, text, hashes, weight, begins = map(np.concatenate, zip(*parts, strict=True))
    return Units(
        texts=texts,
        hash=hashes,
        start=start,
        end=end,
        text=text,
        weight=weight,
        begins_word=begins if with_words else None,
    )


def _split_batch(texts: Sequence[str], with_words: bool) -> tuple[np.ndarray, ...]:
    """start, end, text, hash, weight and begins_word of each unit."""
    batch = Batch(texts)
    kinds = classify()[batch.codes]
    is_word, is_single = kinds == _WORD, kinds == _SINGLE
    is_first, is_last = is_word.copy(), is_word.copy()
    is_first[1:] &= ~is_word[:-1]
    is_last[:-1] &= ~is_word[1:]
    first, end = np.flatnonzero(is_first | is_single), np.flatnonzero(is_last | is_single) + 1
    text = batch.find_documents(first)
    weight = np.where(is_single[first], CHARACTER_WEIGHT, WORD_WEIGHT).astype(np.int64)
    begins = _find_beginnings(batch, is_single, first, end) if with_words else np.zeros(len(first), bool)
    hashes = scramble(batch.hash(Pieces(start=first, end=end, document=text)))
    return first - batch.starts[text], end - batch.starts[text], text, hashes, weight, begins


def _find_beginnings(batch: Batch, is_single: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether no word reaches over the start of each unit.

    Between two characters of their own that touch, the dictionary says it for Han; kana, Thai, Lao, Khmer
    and Burmese have no dictionary, so a word may go on there.
    """
    touches = np.zeros(len(first), bool)
    touches[1:] = (first[1:] == end[:-1]) & is_single[first[1:]] & is_single[first[1:] - 1]
    if not batch.is_class(HAN).any():
        return ~touches
    return ~touches | cut_ideographs(batch)[first]


def _cut(text: str) -> Iterator[str]:
    """Pieces of at most _CHUNK_CHARS. They end behind a separator, or else between two units; a word that is
    longer than _LOOK_BACK characters is cut. The pieces depend on the text alone."""
    kinds, start = classify(), 0
    while start < len(text):
        stop = min(start + _CHUNK_CHARS, len(text))
        if stop < len(text):
            codes = np.frombuffer(text[stop - _LOOK_BACK : stop].encode("utf-32-le"), np.uint32)
            found = kinds[codes]
            places = np.flatnonzero(found == _SEPARATOR)
            places = places if len(places) else np.flatnonzero(found != _WORD)
            if len(places):
                stop -= _LOOK_BACK - 1 - int(places[-1])
        yield text[start:stop]
        start = stop


def _raise_base(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers 0 to at least `size` of _BASE and of its inverse modulo 2**64."""
    return _keep_powers() if size < _CHUNK_CHARS else _compute_powers(size + 1)


@cache
def _keep_powers() -> tuple[np.ndarray, np.ndarray]:
    return _compute_powers(_CHUNK_CHARS)


def _compute_powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    factors = np.full((2, size), [[np.uint64(_BASE)], [np.uint64(pow(_BASE, -1, 2**64))]], np.uint64)
    factors[:, 0] = 1
    powers, inverses = np.cumprod(factors, axis=1, dtype=np.uint64)
    return powers, inverses
