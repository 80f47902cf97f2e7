"""What is measured of the texts that a task reads, computed in batches beside their positions: signals, words
of lists, languages and n-grams of evaluation sets.

Texts are measured in the first reading, where they are in memory anyway; only the numbers travel. So a rule
that a document fails is known before documents are written, and no text is measured twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.corpus.language import identify_language
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.matching.contamination import find_contamination
from pipelines.corpus.matching.evaluation import Index
from pipelines.corpus.matching.words import Words, count_words
from pipelines.corpus.paragraphs.edit import REMOVED_BYTES, Cut, Removed
from pipelines.corpus.readers.mapping import Columns, TextMapper
from pipelines.corpus.rules import Rules
from pipelines.corpus.signals.table import compute_signals

MEASURES = """signals ARRAY<DOUBLE>, language STRING, language_score DOUBLE, edits MAP<STRING, INT>,
              hits ARRAY<STRUCT<evaluation_set: STRING, record: STRING, num_ngrams: INT, excerpt: STRING>>,
              exceeds BOOLEAN, whole_chars INT,
              removed ARRAY<STRUCT<paragraph: INT, start: INT, num_chars: INT, hash: STRING>>"""
"""The signals that were asked for, in their order; the language; what cleaning changed; what the text has of
evaluation sets, and whether that is more than a kept document may have; of a text that lost paragraphs, its
length before and these (`paragraphs/edit.py`)."""
_MAX_CHARS, _MAX_BYTES, _MAX_ROWS = 2**20, 4 * 2**20, 4_096
"""Texts that wait to be measured together, and the rows that wait with them; a batch ends with the text that
reaches a limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measuring:
    """What is measured of a text. It travels to every task."""

    signals: tuple[str, ...] = ()
    """Of presets."""
    words: tuple[Words, ...] = ()
    index: Index | None = None
    """Of evaluation sets; None = there are none."""
    with_language: bool = False

    @property
    def in_batches(self) -> bool:
        """Whether many texts at once cost less."""
        return bool(self.signals or self.words or self.index)


def prepare_measuring(rules: Rules, manifest: Manifest) -> Measuring:
    """What the rules and the screens of the manifest ask. Reads the evaluation sets.

    Raises ValueError if the words of the rules were not read, and errors as in `read_records`.
    """
    screens = manifest.screens
    words = screens.words if screens else ()
    if [each.name for each in rules.word_lists] != [each.name for each in words]:
        raise ValueError(
            "the word lists of the rules were not read; give the manifest to screens.add_screens"
        )
    return Measuring(
        signals=rules.preset_signals,
        words=words,
        index=screens.open_index() if screens else None,
        with_language=rules.need_languages,
    )


class Measurable(NamedTuple):
    """A row that waits for its signals."""

    num_bytes: int
    """Of the row, with what its text lost."""
    row: tuple
    text: str | None = None
    """None = a broken record, or the row of a slice."""
    edits: dict[str, int] | None = None
    cut: Cut | None = None


class TextKeeper:
    """A mapper that keeps text and edits of the record that it mapped last."""

    def __init__(self, mapper: TextMapper) -> None:
        self._mapper = mapper
        self._columns: Columns | None = None

    def map_values(self, values: Mapping[str, object]) -> Columns:
        self._columns = None
        self._columns = self._mapper.map_values(values)
        return self._columns

    def add_text(self, num_bytes: int, row: tuple) -> Measurable:
        """The row of the last record with its text. The next call has none, unless a record came before."""
        columns, self._columns = self._columns, None
        if columns is None:
            return Measurable(num_bytes, row)
        # A text of 10 kB may lose 200 paragraphs, whose evidence takes 54 kB.
        evidence_bytes = REMOVED_BYTES * len(columns.cut.removed) if columns.cut else 0
        return Measurable(num_bytes + evidence_bytes, row, columns.text, columns.edits, columns.cut)


def attach_measures(rows: Iterator[Measurable], measuring: Measuring) -> Iterator[tuple[int, tuple]]:
    """(bytes, row + the columns of MEASURES), in order; null where there is no text, or nothing was asked."""
    waiting, num_chars, num_bytes, in_batches = list[Measurable](), 0, 0, measuring.in_batches
    if not in_batches and not measuring.with_language:
        yield from map(_fill, rows)
        return
    for row in rows:
        waiting.append(row)
        num_chars += len(row.text or "")
        num_bytes += row.num_bytes
        is_full = num_chars >= _MAX_CHARS or num_bytes >= _MAX_BYTES or len(waiting) >= _MAX_ROWS
        if is_full or not in_batches:
            yield from _attach(waiting, measuring)
            waiting, num_chars, num_bytes = [], 0, 0
    yield from _attach(waiting, measuring)


def _attach(waiting: Sequence[Measurable], measuring: Measuring) -> Iterator[tuple[int, tuple]]:
    texts = [each.text for each in waiting if each.text is not None]
    found = [identify_language(text) if measuring.with_language and text else None for text in texts]
    languages = [(each or (None, None)) for each in found]
    signals = _measure(texts, [language for language, _ in languages], measuring)
    hits = find_contamination(texts, measuring.index) if measuring.index else [None] * len(texts)
    measured = zip(signals, languages, hits, strict=True)
    for each in waiting:
        if each.text is None:
            yield _fill(each)
        else:
            of_text, language, found_hits = next(measured)
            of_sets = found_hits or (None, None)
            yield each.num_bytes, (*each.row, of_text, *language, _edits(each), *of_sets, *_cut(each))


def _fill(each: Measurable) -> tuple[int, tuple]:
    """A row of which nothing was measured."""
    return each.num_bytes, (*each.row, None, None, None, _edits(each), None, None, *_cut(each))


def _edits(each: Measurable) -> list[tuple[str, int]] | None:
    return list(each.edits.items()) if each.edits else None


def _cut(each: Measurable) -> tuple[int | None, list[Removed] | None]:
    """whole_chars and removed, as tuples in the order of the struct: dicts would double the memory."""
    return each.cut or (None, None)


def _measure(
    texts: Sequence[str], languages: Sequence[str | None], measuring: Measuring
) -> Sequence[list[float | None] | None]:
    """The signals of presets and of word lists, by text; None = nothing was asked."""
    if not texts or not (measuring.signals or measuring.words):
        return [None] * len(texts)
    signals = compute_signals(texts, measuring.signals).tolist() if measuring.signals else [[] for _ in texts]
    if measuring.words:
        counted = count_words(texts, languages, measuring.words)
        signals = [[*one, *other] for one, other in zip(signals, counted, strict=True)]
    return signals
