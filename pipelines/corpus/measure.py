"""Signals of the texts that a task reads, computed in batches beside their positions.

Texts are measured in the first reading, where they are in memory anyway; only the numbers travel. So a rule
that a document fails is known before documents are written, and no text is measured twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipelines.corpus.language import identify_language
from pipelines.corpus.readers.mapping import Columns, Mapper
from pipelines.corpus.signals.table import compute_signals

MEASURES = "signals ARRAY<DOUBLE>, language STRING, language_score DOUBLE, edits MAP<STRING, INT>"
"""The signals that were asked for, in their order, the language, and what cleaning changed."""
_MAX_CHARS, _MAX_ROWS = 2**20, 4_096
"""Texts that wait to be measured together; a batch ends with the text that reaches a limit."""


class Measurable(NamedTuple):
    """A row that waits for its signals."""

    num_bytes: int
    row: tuple
    text: str | None = None
    """None = a broken record, or the row of a slice."""
    edits: dict[str, int] | None = None


class TextKeeper:
    """A mapper that keeps text and edits of the record that it mapped last."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper
        self._columns: Columns | None = None

    def map_values(self, values: Mapping[str, object]) -> Columns:
        self._columns = None
        self._columns = self._mapper.map_values(values)
        return self._columns

    def add_text(self, num_bytes: int, row: tuple) -> Measurable:
        """The row of the last record with its text. The next call has none, unless a record came before."""
        columns, self._columns = self._columns, None
        return Measurable(num_bytes, row, *((columns.text, columns.edits) if columns else ()))


def attach_signals(
    rows: Iterator[Measurable], asked: Sequence[str], *, with_language: bool
) -> Iterator[tuple[int, tuple]]:
    """(bytes, row + the columns of MEASURES), in order; null where there is no text, or nothing was asked."""
    waiting, num_chars = list[Measurable](), 0
    for row in rows:
        waiting.append(row)
        num_chars += len(row.text or "")
        if not asked or num_chars >= _MAX_CHARS or len(waiting) >= _MAX_ROWS:
            yield from _attach(waiting, asked, with_language)
            waiting, num_chars = [], 0
    yield from _attach(waiting, asked, with_language)


def _attach(
    waiting: Sequence[Measurable], asked: Sequence[str], with_language: bool
) -> Iterator[tuple[int, tuple]]:
    texts = [each.text for each in waiting if each.text is not None] if asked else []
    measured = iter(compute_signals(texts, asked).tolist() if texts else ())
    for each in waiting:
        signals = next(measured) if asked and each.text is not None else None
        language = identify_language(each.text) if with_language and each.text else None
        edits = list(each.edits.items()) if each.edits else None
        yield each.num_bytes, (*each.row, signals, *(language or (None, None)), edits)
