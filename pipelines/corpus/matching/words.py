"""Lists of words: read on the driver, counted in texts on the executors.

A match is a run of units (`units.py`) that equals the units of an entry, so case, width and punctuation do
not count. Words of scripts with spaces match as a whole: "grape" has no match of an entry of four letters.

Chinese entries match whole words of the dictionary, one or several, or a part of one word. They never match
across the border of a word of which a part is left over: 大麻 has no match in 大|麻烦. Measured with 18
entries in 3.6 million characters: 456 matches. Any substring would be 461, with chance pairs; whole words
alone would be 415, because the dictionary has many compounds, such as 自杀者.

Matches do not overlap: the first one counts, and of several at one place the longest. The words themselves
never leave this module: not as text, and in no message. Cost on a busy core: 60 ns a character of English,
380 of Chinese, most of it for the dictionary.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.corpus.matching.units import CHARACTER_WEIGHT, Units, fold, hash_runs, split_units
from pipelines.corpus.word_list import WordList, is_among
from pipelines.paths import without_credentials
from pipelines.storage import locate


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """A list as it was read."""

    name: str
    languages: tuple[str, ...]
    hashes: dict[int, np.ndarray]
    """Number of units -> hashes of the entries with so many, ascending."""
    cuts_words: bool
    """Whether an entry has a character that is a unit of its own, so that borders of words matter."""
    digest: str
    """Of the folded entries, in any order."""


def read_words(word_list: WordList) -> Words:
    """The words of a list. Comments, blank lines and repeated words change nothing.

    Raises OSError if the file cannot be read, and ValueError with the number of the line if it is not UTF-8
    or has no letter or digit, or if the file has no word.
    """
    at = f"word list {word_list.name!r}"
    entries = _read_entries(word_list, at)
    lines, num_lines, cuts_words = list(entries), 0, False
    hashes = dict[int, list[np.uint64]]()
    for units in split_units(entries.values()):
        counts = np.bincount(units.text, minlength=len(units.texts))
        if len(empty := np.flatnonzero(counts == 0)):
            line = lines[num_lines + int(empty[0])]
            raise ValueError(f"{at}: line {line} has no letter and no digit; remove it")
        num_lines += len(counts)
        ends = np.cumsum(counts)
        runs = hash_runs(units.hash, ends - counts, ends)
        for run, count in zip(runs, counts.tolist(), strict=True):
            hashes.setdefault(count, []).append(run)
        cuts_words |= bool((units.weight == CHARACTER_WEIGHT).any())
    digest = hashlib.sha256("\n".join(sorted(set(map(fold, entries.values())))).encode()).hexdigest()
    return Words(
        name=word_list.name,
        languages=word_list.languages,
        hashes={count: np.unique(np.array(found)) for count, found in sorted(hashes.items())},
        cuts_words=cuts_words,
        digest=digest,
    )


def _read_entries(word_list: WordList, at: str) -> dict[int, str]:
    """Number of the line -> word or phrase."""
    files, path = locate(word_list.path)
    shown = without_credentials(word_list.path)
    try:
        with files.open_input_stream(path, compression=None) as stream:
            lines = stream.read().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        cause = str(error).partition("\n")[0]
        raise type(error)(f"{at}: {shown} cannot be read: {cause}; correct path or rights") from None
    entries = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = line.decode().strip()
        except UnicodeDecodeError:
            raise ValueError(f"{at}: line {number} of {shown} is not UTF-8; save the file as UTF-8") from None
        if entry and not entry.startswith("#"):
            entries[number] = entry
    if not entries:
        raise ValueError(f"{at}: {shown} has no word; remove the list or fill the file")
    return entries


def count_words(
    texts: Sequence[str], languages: Sequence[str | None], lists: Sequence[Words]
) -> list[list[float | None]]:
    """For each text: matches and share of the units in matches, of each list. Null where the list is not for
    the language of the text; a text without words has 0 and 0."""
    counted: list[list[float | None]] = []
    for units in split_units(texts, with_words=any(words.cuts_words for words in lists)):
        num_units = np.bincount(units.text, minlength=len(units.texts))
        columns = [column for found in _find(units, lists) for column in _add_up(units, found, num_units)]
        counted += (list(row) for row in zip(*columns, strict=True))
    for row, language in zip(counted, languages, strict=True):
        for place, words in enumerate(lists):
            if not is_among(language, words.languages):
                row[2 * place : 2 * place + 2] = [None, None]
    return counted


def _find(units: Units, lists: Sequence[Words]) -> list[list[tuple[int, int]]]:
    """The runs of units [first, end) that match, for each list; each list of runs by first, longest first."""
    found: list[list[tuple[int, int]]] = [[] for _ in lists]
    for length in sorted({length for words in lists for length in words.hashes}, reverse=True):
        first = np.arange(max(0, len(units) - length + 1))
        end = first + length
        hashes = hash_runs(units.hash, first, end) if len(first) else np.empty(0, np.uint64)
        for words, runs in zip(lists, found, strict=True):
            if length in words.hashes:
                places = first[np.isin(hashes, words.hashes[length])]
                places = places[_is_whole(units, places, places + length)]
                runs += ((place, place + length) for place in places.tolist())
    for runs in found:
        runs.sort(key=lambda run: (run[0], -run[1]))
    return found


def _is_whole(units: Units, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether each run [first, end) is in one text, and leaves over no part of a word at one of its ends
    while it reaches into another word."""
    within = units.text[first] == units.text[end - 1]
    if units.begins_word is None:
        return within
    begins = np.append(units.begins_word, True)
    before = np.concatenate(([0], np.cumsum(begins)))
    is_in_one_word = before[end] == before[first + 1]
    return within & ((begins[first] & begins[end]) | is_in_one_word)


def _add_up(units: Units, runs: list[tuple[int, int]], num_units: np.ndarray) -> tuple[list, list]:
    """Matches that do not overlap, and the share of the units in them, by text."""
    matches, covered = np.zeros(len(num_units), np.int64), np.zeros(len(num_units), np.int64)
    last = 0
    for first, end in runs:
        if first >= last:
            text = units.text[first]
            matches[text] += 1
            covered[text] += end - first
            last = end
    return matches.astype(float).tolist(), (covered / np.maximum(num_units, 1)).tolist()
