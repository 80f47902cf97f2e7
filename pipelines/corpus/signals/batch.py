"""Texts as one array of code points, with its lines and the hashes of its pieces.

Every text is followed by one line break, so a piece never reaches over the end of its text. A signal is
computed for all texts of a batch by a few operations on arrays; the interpreter's cost is per batch, not per
word. Batches of 256 Ki characters keep the arrays within the caches of a core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from pipelines.corpus.signals.characters import SPACE, classify_characters

_LINE_BREAK = 10
# Odd factors of a polynomial hash modulo 2**64: the first is the golden ratio, the second its inverse.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """Pieces of a batch, such as its words, in order. Arrays of equal length."""

    start: np.ndarray
    """First character, as an index of the batch; int64."""
    end: np.ndarray
    """Last character + 1."""
    document: np.ndarray
    """Index of the text."""

    @property
    def length(self) -> np.ndarray:
        return self.end - self.start

    def take(self, chosen: np.ndarray) -> "Pieces":
        return Pieces(start=self.start[chosen], end=self.end[chosen], document=self.document[chosen])


class Batch:
    """Texts, normalised as `clean.normalise` does: no outer white space, line ends LF."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.codes = np.frombuffer("".join(f"{text}\n" for text in texts).encode("utf-32-le"), np.uint32)
        self.classes = classify_characters()[self.codes]
        self.num_chars = np.fromiter(map(len, texts), np.int64, len(texts))
        self.ends = np.cumsum(self.num_chars + 1) - 1
        self.starts = self.ends - self.num_chars
        self._prefix, self._inverses = _sum_characters(self.codes)

    def __len__(self) -> int:
        return len(self.texts)

    def is_class(self, classes: int) -> np.ndarray:
        """Whether each character has one of the classes, (num_codes,) bool."""
        return (self.classes & classes) != 0

    def hash(self, pieces: Pieces) -> np.ndarray:
        """64 bits per piece, equal for equal strings: the sum of f(character) * BASE**position, divided by
        BASE**start. f is a fixed random function."""
        return (self._prefix[pieces.end] - self._prefix[pieces.start]) * self._inverses[pieces.start]

    def hash_within(self, pieces: Pieces) -> np.ndarray:
        """As `hash`, but different in every document: equal values are copies within one text."""
        return self.hash(pieces) ^ scramble(pieces.document.astype(np.uint64) + np.uint64(1))

    def count(self, documents: np.ndarray) -> np.ndarray:
        """How often each text occurs among indices of texts, (num_texts,) int64."""
        return np.bincount(documents, minlength=len(self))

    def sum(self, documents: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Sum of whole numbers by text, (num_texts,) int64."""
        return np.bincount(documents, values, minlength=len(self)).astype(np.int64)

    def find_documents(self, positions: np.ndarray) -> np.ndarray:
        """Index of the text that each position is in; positions ascend."""
        return place_sorted(positions, self.ends)

    def count_characters(self, found: np.ndarray) -> np.ndarray:
        """Characters marked in `found` (num_codes,) by text. Line breaks after a text are not counted."""
        running = np.concatenate(([0], np.cumsum(found)))
        return running[self.ends] - running[self.starts]

    def split_lines(self) -> Pieces:
        """Lines, as str.split("\\n") gives them: empty ones too, at least one per text."""
        ends = np.flatnonzero(self.codes == _LINE_BREAK)
        starts = np.concatenate(([0], ends[:-1] + 1))
        return Pieces(start=starts, end=ends, document=self.find_documents(ends))

    def strip(self, pieces: Pieces) -> Pieces:
        """The pieces without outer white space; an empty one starts and ends at its old start."""
        solid = np.flatnonzero(~self.is_class(SPACE))
        first, last = np.searchsorted(solid, pieces.start), np.searchsorted(solid, pieces.end)
        is_empty = first == last
        solid = np.append(solid, 0)
        start = np.where(is_empty, pieces.start, solid[first])
        return Pieces(
            start=start, end=np.where(is_empty, start, solid[last - 1] + 1), document=pieces.document
        )


def place_sorted(positions: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """np.searchsorted(ends, positions) for ascending positions: the few ends are searched instead of the many
    positions, six times as fast. No position is larger than the last end."""
    behind = np.searchsorted(positions, ends, side="right")
    return np.repeat(np.arange(len(ends)), np.diff(behind, prepend=0))


def hash_word(word: str) -> np.uint64:
    """What `Batch.hash` gives for the word."""
    batch = Batch([word])
    whole = Pieces(start=batch.starts, end=batch.ends, document=np.zeros(1, np.int64))
    return np.uint64(batch.hash(whole)[0])


def scramble(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that changes about half of the bits for each changed bit (splitmix64)."""
    mixed = values * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def divide(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Fractions, float64; 0 where the denominator is 0."""
    return np.where(denominators > 0, numerators / np.maximum(denominators, 1), 0.0)


def _sum_characters(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running sums of f(character) * BASE**position, (num_codes + 1,), and BASE**-position."""
    powers, inverses = _raise_base(1 << max(18, len(codes).bit_length()))
    terms = _scrambled_characters()[codes] * powers[: len(codes)]
    return np.concatenate((np.zeros(1, np.uint64), np.cumsum(terms))), inverses


@cache
def _scrambled_characters() -> np.ndarray:
    return scramble(np.arange(1, 0x110001, dtype=np.uint64))


@lru_cache(maxsize=2)
def _raise_base(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers 0 to size - 1 of BASE and of its inverse modulo 2**64."""
    factors = np.full((2, size), [[_BASE], [_INVERSE]], np.uint64)
    factors[:, 0] = 1
    powers, inverses = np.cumprod(factors, axis=1)
    return powers, inverses
