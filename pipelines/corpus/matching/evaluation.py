"""Evaluation sets -> an index of their n-grams, made on the driver and sent to every task.

Each n-gram names the first record of each set that has it. So a text that many records share (the passage of
several questions, an instruction) is found, and gives one row of evidence instead of thousands.

Memory: 12 bytes an n-gram in each task, and about 60 on the driver while the index is made.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.matching.units import WORD_WEIGHT, Units, hash_runs, split_units

MAX_GRAMS = 2**23
"""Of all records together, repeated ones too: 100 MB a task."""
_BATCH_RECORDS = 4_096


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Values by hash. Arrays of equal length, ascending by hash; a hash may occur several times."""

    hashes: np.ndarray
    """uint64"""
    records: np.ndarray
    """int32"""

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(index of the hash asked for, record) of every pair of equal hashes, by index."""
        first = np.searchsorted(self.hashes, hashes)
        # Most hashes are not there; only for the others the last place is looked for.
        inside = np.minimum(first, max(len(self.hashes) - 1, 0))
        known = np.flatnonzero(self.hashes[inside] == hashes) if len(self.hashes) else first[:0]
        first = first[known]
        counts = np.searchsorted(self.hashes, hashes[known], side="right") - first
        return np.repeat(known, counts), self.records[_count_up(first, counts)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shorts:
    """Records that are shorter than an n-gram. Arrays of equal length."""

    records: np.ndarray
    """int32"""
    num_units: np.ndarray
    wholes: np.ndarray
    """Hashes of all units of the record, uint64."""

    def take(self, chosen: np.ndarray) -> "Shorts":
        return Shorts(
            records=self.records[chosen], num_units=self.num_units[chosen], wholes=self.wholes[chosen]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """What is looked for."""

    settings: Decontamination
    names: tuple[str, ...]
    """Of each record: its key, else FILE:OFFSET."""
    set_of: np.ndarray
    """(num_records,) int16: the place of its set among the settings."""
    grams: Table
    """The n-grams of records."""
    starts: Table
    """The first min_record_words words of each record that is shorter than an n-gram; `records` are places in
    `shorts`."""
    shorts: "Shorts"
    num_records: tuple[int, ...]
    """By set."""
    too_short: tuple[int, ...]
    """By set: records that are not compared."""


def find_runs(units: Units, num_words: int) -> tuple[np.ndarray, np.ndarray]:
    """(first, end) of the shortest run of units from each unit on that weighs at least `num_words` words;
    without the runs that would reach over the end of their text."""
    if not len(units):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    weights = np.concatenate(([0], np.cumsum(units.weight)))
    end = np.searchsorted(weights, weights[:-1] + num_words * WORD_WEIGHT)
    first = np.flatnonzero(end <= len(units))
    end = end[first]
    is_within = units.text[first] == units.text[end - 1]
    return first[is_within], end[is_within]


def build_index(settings: Decontamination, records: Iterable[tuple[int, str, str]]) -> Index:
    """The index of (place of the set, name, text) of records, in an order that does not change.

    Records of a set that have one name count as one. Raises ValueError if there are too many n-grams.
    """
    collected = _Collected(settings)
    rows = iter(records)
    while batch := list(islice(rows, _BATCH_RECORDS)):
        places = np.array([place for place, _, _ in batch])
        numbers = np.array([collected.number(place, name) for place, name, _ in batch], np.int32)
        start = 0
        for units in split_units(text for _, _, text in batch):
            stop = start + len(units.texts)
            collected.add(units, places[start:stop], numbers[start:stop])
            start = stop
    return collected.make_index()


class _Collected:
    """What is known of the records so far."""

    def __init__(self, settings: Decontamination) -> None:
        self._settings = settings
        self._numbers = dict[tuple[int, str], int]()
        self._grams = [(np.empty(0, np.uint64), np.empty(0, np.int32))]
        self._starts = [np.empty(0, np.uint64)]
        self._shorts = [(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.uint64))]
        self._num_records, self._num_left_out = np.zeros((2, len(settings.evaluation_sets)), np.int64)
        self._num_grams = 0

    def number(self, place: int, name: str) -> int:
        return self._numbers.setdefault((place, name), len(self._numbers))

    def add(self, units: Units, places: np.ndarray, numbers: np.ndarray) -> None:
        """The texts of records with these sets and numbers."""
        settings, num_sets = self._settings, len(self._num_records)
        weight = np.bincount(units.text, units.weight, len(units.texts))
        is_long = weight >= settings.ngram * WORD_WEIGHT
        is_short = ~is_long & (weight >= settings.min_record_words * WORD_WEIGHT)
        self._num_records += np.bincount(places, minlength=num_sets)
        self._num_left_out += np.bincount(places[~is_long & ~is_short], minlength=num_sets)

        first, end = find_runs(units, settings.ngram)
        self._grams.append((hash_runs(units.hash, first, end), numbers[units.text[first]]))
        self._num_grams += len(first)
        if self._num_grams > MAX_GRAMS:
            raise ValueError(
                f"corpus.decontamination: the evaluation sets have more than {MAX_GRAMS:,} n-grams, which "
                "every task would hold; remove sets, or parts of them"
            )

        counts = np.bincount(units.text, minlength=len(units.texts))
        stops = np.cumsum(counts)
        begins = stops - counts
        first, end = find_runs(units, settings.min_record_words)
        chosen = is_short[units.text[first]] & (first == begins[units.text[first]])
        texts = units.text[first[chosen]]
        self._starts.append(hash_runs(units.hash, first[chosen], end[chosen]))
        wholes = hash_runs(units.hash, begins[texts], stops[texts])
        self._shorts.append((numbers[texts], counts[texts], wholes))

    def make_index(self) -> Index:
        set_of = np.array([place for place, _ in self._numbers], np.int16)
        hashes, records = map(np.concatenate, zip(*self._grams, strict=True))
        order = _choose_first(hashes, set_of, records)
        short_records, num_units, wholes = map(np.concatenate, zip(*self._shorts, strict=True))
        shorts = Shorts(records=short_records, num_units=num_units, wholes=wholes)
        chosen = _choose_first(wholes, set_of, short_records)
        shorts, starts = shorts.take(chosen), np.concatenate(self._starts)[chosen]
        by_start = np.argsort(starts, kind="stable")
        return Index(
            settings=self._settings,
            names=tuple(name for _, name in self._numbers),
            set_of=set_of,
            grams=Table(hashes=hashes[order], records=records[order]),
            starts=Table(hashes=starts[by_start], records=by_start.astype(np.int32)),
            shorts=shorts,
            num_records=tuple(self._num_records.tolist()),
            too_short=tuple(self._num_left_out.tolist()),
        )


def _choose_first(hashes: np.ndarray, set_of: np.ndarray, records: np.ndarray) -> np.ndarray:
    """Indexes that sort the hashes, of the first of each set for each hash, in the order of the arrays."""
    sets = set_of[records]
    order = np.lexsort((sets, hashes))  # stable
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(hashes[order]) != 0) | (np.diff(sets[order]) != 0)
    return order[is_first]


def _count_up(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, ... counts[0] numbers, then first[1], ...; (sum of counts,)."""
    offsets = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + np.arange(len(offsets)) - offsets
