"""Texts -> hashes of their shingles (n-grams of words), in NumPy.

A word is a run of letters, digits, marks and '_', in lower case. Scripts without spaces between words (Han,
kana, Thai, Lao, Khmer, Burmese) give one word per character, so an n-gram of Chinese is n characters.
Punctuation and white space only separate.

All words of a chunk are hashed at once: with powers p**i of an odd number p, the running sum S of c[i] * p**i
modulo 2**64 gives the hash of characters s to e as (S[e] - S[s]) * p**-s, wherever the word stands. Cost:
ten passes over 4 to 8 bytes a character, about 15 ns a character. Memory: about 50 bytes a character of the
chunk, and 16 bytes a word of a text that is longer than a chunk.
"""

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from pipelines.corpus.neardup.kernels import Kernels, count_chars, find_kernels
from pipelines.corpus.neardup.mixing import Hashes, draw_constants, finalise

CHUNK_CHARS = 2**15
"""Code points that are hashed together: arrays of this length stay in the processor's cache."""
HASH_VERSION = f"words1-unicode{unicodedata.unidata_version}"
"""Hashes of different versions are never compared. Letters and lower case are those of Python's Unicode."""

_LOWERED_IN_CONTEXT = ("\u0130", "\u03a3")
"""A capital I with a dot, whose lower case is two characters, and a capital sigma, which is another letter at
the end of a word. A test looks for more."""
_SEPARATOR, _WORD, _SINGLE = 0, 1, 2
_SINGLES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark, zero
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han compatibility
    (0x20000, 0x323AF),  # Han extensions B to H
)


def hash_shingles(texts: Iterable[str], ngram: int) -> Iterator[Hashes]:
    """The hashes of the shingles of each text, in order and with repetitions; empty if it has fewer than
    `ngram` words."""
    weights = draw_constants(0, f"{HASH_VERSION} shingle", ngram) | np.uint64(1)
    for words, counts in _hash_in_chunks(texts):
        num_windows = max(0, len(words) - ngram + 1)
        shingles = np.zeros(num_windows, np.uint64)
        for place in range(ngram):
            shingles += words[place : place + num_windows] * weights[place]
        finalise(shingles)
        # Windows that begin in one text and end in the next are not part of any slice.
        start = 0
        for count in counts:
            yield shingles[start : start + max(0, count - ngram + 1)]
            start += count


def compute_jaccard(one: Hashes, other: Hashes) -> float:
    """Exact Jaccard similarity of two sorted sets of hashes; 0 if one of them is empty."""
    if not len(one) or not len(other):
        return 0.0
    places = np.searchsorted(one, other)
    places[places == len(one)] = 0
    common = int(np.count_nonzero(one[places] == other))
    return common / (len(one) + len(other) - common)


def _hash_in_chunks(texts: Iterable[str]) -> Iterator[tuple[Hashes, list[int]]]:
    """(hashes of the words of some texts, number of words of each). A long text is a chunk of its own."""
    waiting: list[str] = []
    size = 0
    for text in texts:
        lowered = text if _is_lowered_by_code(text) and find_kernels() is not None else text.lower()
        if waiting and size + len(lowered) > CHUNK_CHARS:
            yield _hash_words(waiting)
            waiting, size = [], 0
        if len(lowered) > CHUNK_CHARS:
            words = np.concatenate([_hash_words([piece])[0] for piece in _cut(lowered)])
            yield words, [len(words)]
            continue
        waiting.append(lowered)
        size += len(lowered) + 1
    if waiting:
        yield _hash_words(waiting)


def _cut(text: str) -> Iterator[str]:
    """Pieces of at most CHUNK_CHARS that end between two words. A word longer than that is cut.

    The pieces depend on the text alone, so the hashes do not depend on its neighbours.
    """
    kinds, start = classify(), 0
    while start < len(text):
        stop = min(start + CHUNK_CHARS, len(text))
        if stop < len(text) and kinds[ord(text[stop])] == _WORD:
            codes = _encode(text[start:stop])
            ends = np.flatnonzero(kinds[codes] != _WORD)
            if len(ends):
                stop = start + int(ends[-1]) + 1
        yield text[start:stop]
        start = stop


def _hash_words(texts: Sequence[str]) -> tuple[Hashes, list[int]]:
    codes = _encode("\n".join(texts))
    count_chars(len(codes))
    kernels = find_kernels()
    words, firsts = _sum_words(codes) if kernels is None else _sum_compiled(codes, kernels)
    stops = np.cumsum([len(text) + 1 for text in texts])
    return finalise(words), np.diff(np.searchsorted(firsts, stops), prepend=0).tolist()


def _sum_words(codes: npt.NDArray[np.uint32]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """(sum of code * p**i over the characters i of each word, the place where each word begins)."""
    kinds = classify()[codes]
    is_word, is_single = kinds == _WORD, kinds == _SINGLE
    is_first, is_last = is_word.copy(), is_word.copy()
    is_first[1:] &= ~is_word[:-1]
    is_last[:-1] &= ~is_word[1:]
    firsts, lasts = np.flatnonzero(is_first | is_single), np.flatnonzero(is_last | is_single)

    powers, inverses = _powers(2 * CHUNK_CHARS)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    return (sums[lasts + 1] - sums[firsts]) * inverses[firsts], firsts


def _sum_compiled(codes: npt.NDArray[np.uint32], kernels: Kernels) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The same by the compiled loop."""
    words, firsts = np.empty(len(codes), np.uint64), np.empty(len(codes), np.int64)
    base = _powers(2 * CHUNK_CHARS)[0][1]
    num_words = kernels.hash_words(codes, classify(), _lower_codes(), base, words, firsts)
    # Copies, because the buffers have room for a word a character.
    return words[:num_words].copy(), firsts[:num_words].copy()


def _encode(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _is_lowered_by_code(text: str) -> bool:
    """Whether the lower case of each character depends on nothing else, and is one character."""
    return not text.isascii() and not any(special in text for special in _LOWERED_IN_CONTEXT)


@cache
def _lower_codes() -> npt.NDArray[np.uint32]:
    """Of each code point: that of its lower case; itself if that is more than one character. 4.4 MB."""
    lowers = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    for code in range(sys.maxunicode + 1):
        lower = chr(code).lower()
        if len(lower) == 1:
            lowers[code] = ord(lower)
    lowers.flags.writeable = False
    return lowers


@cache
def classify() -> npt.NDArray[np.uint8]:
    """Of each code point: separator, part of a word, or a word of its own. 1.1 MB, made once in 0.3 s."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category[0] in "LNM" or code == ord("_"):
            kinds[code] = _WORD
    for first, last in _SINGLES:
        part = kinds[first : last + 1]
        part[part == _WORD] = _SINGLE
    kinds.flags.writeable = False
    return kinds


@cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of an odd number modulo 2**64, and of its inverse."""
    base = int(draw_constants(0, f"{HASH_VERSION} character", 1)[0]) | 1
    inverse = pow(base, -1, 2**64)
    return tuple(  # type: ignore[return-value]
        np.cumprod(np.concatenate([[np.uint64(1)], np.full(count - 1, value, np.uint64)]), dtype=np.uint64)
        for value in (base, inverse)
    )
