"""Repeated n-grams of words or tokens: how many characters of a text they hold.

An n-gram is repeated only if both (n-1)-grams in it are, so each n looks only at what the one before left: of
a normal text about a fifth of the 2-grams and one in a hundred 5-grams. Cost: one sort per n over those.

Two ways to count duplicates (table A1 of Gopher leaves both open):
paper      characters of words in an n-gram that occurred before, each word once
datatrove  from left to right: an n-gram that was seen counts whole, and reading goes on behind it
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.corpus.signals.batch import Batch, Pieces, divide, scramble


@dataclass(frozen=True, slots=True)
class Repeated:
    """The n-grams of one n that occur at least twice in their text."""

    n: int
    first: np.ndarray
    """Index of the first unit, ascending."""
    key: np.ndarray
    """Equal for equal n-grams of one text."""
    length: np.ndarray
    """Characters of the units, without what separates them."""


def find_repeated(batch: Batch, units: Pieces, largest: int) -> Iterator[Repeated]:
    """The repeated n-grams for n = 2 to `largest`."""
    hashes = batch.hash_within(units)
    ends = np.concatenate(([0], np.cumsum(units.length)))
    first = np.flatnonzero(units.document[1:] == units.document[:-1])
    keys = scramble(hashes[first])
    for n in range(2, largest + 1):
        first, keys = _keep_repeated(first, scramble(keys + hashes[first + n - 1]))
        yield Repeated(n, first, keys, ends[first + n] - ends[first])
        # The (n+1)-gram at i can be repeated only if the n-grams at i and at i + 1 are.
        chosen = np.flatnonzero(np.diff(first) == 1)
        first, keys = first[chosen], keys[chosen]


def _keep_repeated(first: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ordered = np.sort(keys)
    copies = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(copies):
        return first[:0], keys[:0]
    place = np.minimum(np.searchsorted(copies, keys), len(copies) - 1)
    chosen = copies[place] == keys
    return first[chosen], keys[chosen]


def measure_top(batch: Batch, units: Pieces, found: Repeated) -> np.ndarray:
    """Characters in the most frequent n-gram, with the n - 1 spaces in it, as a fraction of the text.

    Ties: the one that comes first in the text. If none is repeated, the first n-gram.
    """
    most = _measure_first(batch, units, found.n)
    if len(found.first):
        order = np.argsort(found.key, kind="stable")
        keys = found.key[order]
        new = np.concatenate(([True], keys[1:] != keys[:-1]))
        group = np.flatnonzero(new)
        counts = np.diff(np.append(group, len(keys)))
        places = order[group]
        document = units.document[found.first[places]]
        best = np.lexsort((found.first[places], -counts, document))
        top = best[np.concatenate(([True], document[best][1:] != document[best][:-1]))]
        most[document[top]] = counts[top] * (found.length[places[top]] + found.n - 1)
    return divide(most, batch.num_chars)


def _measure_first(batch: Batch, units: Pieces, n: int) -> np.ndarray:
    """Length of the first n-gram of each text; 0 if it has fewer than n units."""
    lengths = np.concatenate(([0], np.cumsum(units.length)))
    counts = batch.count(units.document)
    first = np.cumsum(counts) - counts
    enough = counts >= n
    last = np.minimum(first + n, len(units.start))
    return np.where(enough, lengths[last] - lengths[np.minimum(first, len(units.start))] + n - 1, 0)


def measure_covered(batch: Batch, units: Pieces, found: Repeated) -> np.ndarray:
    """Characters of units in an n-gram that occurred before, each unit once, as a fraction of the text."""
    later = np.ones(len(found.first), bool)
    order = np.argsort(found.key, kind="stable")
    keys = found.key[order]
    later[order[np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)]]] = False
    size = len(units.start) + 1
    opened = np.bincount(found.first[later], minlength=size)
    closed = np.bincount(found.first[later] + found.n, minlength=size)
    covered = np.cumsum(opened - closed)[:-1] > 0
    return divide(batch.sum(units.document[covered], units.length[covered]), batch.num_chars)


def measure_skipping(batch: Batch, units: Pieces, found: Repeated) -> np.ndarray:
    """Characters of n-grams that were seen before, as a fraction of the text. After one, reading goes on n
    units later, and what was skipped does not count as seen."""
    documents, num_chars, behind = [], [], 0
    seen: set[int] = set()
    lengths: Sequence[int] = found.length.tolist()
    for place, (first, key) in enumerate(zip(found.first.tolist(), found.key.tolist(), strict=True)):
        if first < behind:
            continue
        if key in seen:
            documents.append(first)
            num_chars.append(lengths[place])
            behind = first + found.n
        else:
            seen.add(key)
    repeated = batch.sum(units.document[np.array(documents, np.int64)], np.array(num_chars, np.int64))
    return divide(repeated, batch.num_chars)
