"""Texts -> the records of evaluation sets that they have n-grams of.

One pass over the text: its n-grams are hashed at once and looked up in the index (`evaluation.py`), by one
binary search each. Measured with 800,000 n-grams in the index, on a busy core: 140 ns a character, 1,900
documents/s of 3.8 kB.

Hashes of 64 bits: with 8 million n-grams in the index, one in 2 * 10**12 n-grams of a corpus is a
hit by chance.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.matching.evaluation import Index, find_runs
from pipelines.corpus.matching.units import Units, hash_runs, split_units

MAX_EXCERPT_CHARS = 200
_NO_RUNS = np.empty(0, np.int64), np.empty(0, np.int64)


class Hit(NamedTuple):
    """What a text has of one record."""

    evaluation_set: str
    record: str
    """Key of the record, else FILE:OFFSET."""
    num_ngrams: int
    """N-grams of the text that the record is the first of its set to have; of a record that is shorter than
    an n-gram, how often the text has it."""
    excerpt: str
    """The first of them in the text, folded; at most MAX_EXCERPT_CHARS characters."""


class Contamination(NamedTuple):
    """What a text has of all sets."""

    hits: list[Hit]
    """By set and record, in the order of the sets."""
    exceeds: bool
    """Whether it has more than a kept document may have."""


class _Runs(NamedTuple):
    """Runs of units [first, end) that are in the index, by first. Arrays of equal length."""

    first: np.ndarray
    end: np.ndarray
    record: np.ndarray
    text: np.ndarray

    def select(self, text: int) -> "_Runs":
        """Those of one text."""
        start, stop = np.searchsorted(self.text, [text, text + 1])
        return _Runs(*(column[start:stop] for column in self))


def find_contamination(texts: Sequence[str], index: Index) -> list[Contamination | None]:
    """What each text has of the evaluation sets; None = nothing."""
    return [found for units in split_units(texts) for found in _search(units, index)]


def _search(units: Units, index: Index) -> Iterator[Contamination | None]:
    first, end = find_runs(units, index.settings.ngram)
    num_ngrams = np.bincount(units.text[first], minlength=len(units.texts))
    asked, records = index.grams.find(hash_runs(units.hash, first, end))
    first, end = first[asked], end[asked]
    both = _Runs(first, end, records, units.text[first]), _find_shorts(units, index)
    with_hits = set(np.concatenate([runs.text for runs in both]).tolist())
    for text in range(len(units.texts)):
        if text not in with_hits:
            yield None
            continue
        # A run may be in records of several sets: it is one hit of the text.
        found = [runs.select(text) for runs in both]
        num_hits = sum(len(np.unique(runs.first)) for runs in found)
        exceeds = _exceeds(num_hits, int(num_ngrams[text]), index.settings)
        together = _Runs(*map(np.concatenate, zip(*found, strict=True)))
        yield Contamination(_describe(units, index, together), exceeds)


def _exceeds(num_hits: int, num_ngrams: int, settings: Decontamination) -> bool:
    """Whether a text has more hits than a kept document may have. A text that is shorter than an n-gram has
    as many n-grams as hits."""
    fraction = num_hits / max(num_ngrams, num_hits)
    return num_hits > settings.max_ngrams and fraction > settings.max_fraction


def _find_shorts(units: Units, index: Index) -> _Runs:
    """The records that are shorter than an n-gram, wherever the texts have them as a whole."""
    num_words = index.settings.min_record_words
    first, end = find_runs(units, num_words) if len(index.starts.hashes) else _NO_RUNS
    asked, places = index.starts.find(hash_runs(units.hash, first, end))
    wanted = index.shorts.take(places)
    first = first[asked]
    end = first + wanted.num_units
    inside = np.flatnonzero(end <= len(units))
    inside = inside[units.text[end[inside] - 1] == units.text[first[inside]]]
    first, end, wanted = first[inside], end[inside], wanted.take(inside)
    equal = hash_runs(units.hash, first, end) == wanted.wholes
    first = first[equal]
    return _Runs(first, end[equal], wanted.records[equal], units.text[first])


def _describe(units: Units, index: Index, runs: _Runs) -> list[Hit]:
    """One hit per record; the runs are those of one text."""
    names = [source.name for source in index.settings.evaluation_sets]
    order = np.lexsort((runs.first, runs.record))
    records, places, counts = np.unique(runs.record[order], return_index=True, return_counts=True)
    hits = []
    for record, place, count in zip(records.tolist(), order[places].tolist(), counts.tolist(), strict=True):
        first, last = runs.first[place], runs.end[place] - 1
        excerpt = units.texts[units.text[first]][units.start[first] : units.end[last]]
        name = names[index.set_of[record]]
        hits.append(Hit(name, index.names[record], count, excerpt[:MAX_EXCERPT_CHARS]))
    return hits
