"""Every signal, and what computes it.

`compute_signals` takes texts and gives one row of numbers per text. Only the groups that the asked signals
need are computed. Memory: arrays of one batch, about 150 bytes per character of it; a text of more than
MAX_CHARS is measured by its first MAX_CHARS characters, so that one record never needs gigabytes.

A signal that divides by something a text does not have (words, lines) is 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property

import numpy as np

from pipelines.corpus.signals import names, repetition, web_lines
from pipelines.corpus.signals.batch import Batch, Pieces, divide, hash_word
from pipelines.corpus.signals.characters import LETTER, SYMBOL
from pipelines.corpus.signals.lines import Lines, count_marks, find_lines, measure_lines, measure_paragraphs
from pipelines.corpus.signals.words import split_tokens, split_words

MAX_CHARS = 4 * 2**20
_BATCH_CHARS = 2**18
_ENGLISH = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher, appendix A.1."""
_CHINESE = tuple("的年在月是和日了於·為有被人中为他與後也而由")
"""FineWeb-2, configs/cmn_Hani.yml."""


class Measured:
    """A batch with what several groups of signals share."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.batch = Batch(texts)

    @cached_property
    def words(self) -> Pieces:
        return split_words(self.batch)

    @cached_property
    def tokens(self) -> Pieces:
        return split_tokens(self.batch)

    @cached_property
    def lines(self) -> Lines:
        return find_lines(self.batch)

    @cached_property
    def marks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return count_marks(self.batch)

    @cached_property
    def line_facts(self) -> web_lines.LineFacts:
        return web_lines.describe_lines(self.batch, self.lines, self.words, self.tokens)


_Columns = Mapping[str, np.ndarray]


def _measure_words(measured: Measured) -> _Columns:
    batch, words = measured.batch, measured.words
    hashes, ellipses, _ = measured.marks
    num_words = batch.count(words.document)
    with_letter = words.document[_contain(batch, words, batch.is_class(LETTER))]
    return {
        "num_words": num_words,
        "mean_word_length": divide(batch.sum(words.document, words.length), num_words),
        "alpha_word_fraction": divide(batch.count(with_letter), num_words),
        "hash_word_ratio": divide(hashes, num_words),
        "ellipsis_word_ratio": divide(ellipses, num_words),
    }


def _measure_tokens(measured: Measured) -> _Columns:
    batch, tokens = measured.batch, measured.tokens
    hashes, ellipses, breaks = measured.marks
    num_tokens = batch.count(tokens.document)
    with_letter = tokens.document[_contain(batch, tokens, batch.is_class(LETTER))]
    plain = tokens.take(_contain(batch, tokens, ~batch.is_class(SYMBOL)))
    num_plain = batch.count(plain.document)
    return {
        "num_tokens": num_tokens,
        "num_word_tokens": num_plain,
        "mean_token_length": divide(batch.sum(plain.document, plain.length), num_plain),
        "alpha_token_fraction": divide(batch.count(with_letter), num_tokens),
        "hash_token_ratio": divide(hashes, num_tokens),
        "ellipsis_token_ratio": divide(ellipses, num_tokens),
        "line_break_token_ratio": divide(breaks, num_tokens),
    }


def _measure_stop_words(measured: Measured) -> _Columns:
    batch, tokens = measured.batch, measured.tokens
    forms, columns = _hash_stop_words()
    hashes = batch.hash(tokens)
    place = np.minimum(np.searchsorted(forms, hashes), len(forms) - 1)
    found = forms[place] == hashes
    has_form = np.zeros((len(batch), len(forms)), bool)
    has_form[tokens.document[found], place[found]] = True
    return {
        name: np.sum([has_form[:, word].any(axis=1) for word in words], axis=0)
        for name, words in columns.items()
    }


@cache
def _hash_stop_words() -> tuple[np.ndarray, dict[str, list[list[int]]]]:
    """Hashes of all forms, ascending, and for each signal the places of the forms of its words."""
    asked: dict[str, list[tuple[str, ...]]] = {
        "num_stop_words": [(word, word.title(), word.upper()) for word in _ENGLISH],
        "num_exact_stop_words": [(word,) for word in _ENGLISH],
        "num_chinese_stop_words": [(word,) for word in _CHINESE],
    }
    hashes = {form: hash_word(form) for words in asked.values() for forms in words for form in forms}
    ordered = np.array(sorted(hashes.values()))
    places = {form: int(np.searchsorted(ordered, found)) for form, found in hashes.items()}
    return ordered, {
        name: [[places[form] for form in forms] for forms in words] for name, words in asked.items()
    }


def _measure_repetition(unit: str) -> "Callable[[Measured], _Columns]":
    def measure(measured: Measured) -> _Columns:
        batch = measured.batch
        units = measured.words if unit == "word" else measured.tokens
        copied = repetition.measure_covered if unit == "word" else repetition.measure_skipping
        columns = {}
        for found in repetition.find_repeated(batch, units, max(names.DUPLICATE_GRAMS)):
            if found.n in names.TOP_GRAMS:
                columns[f"top_{found.n}_gram_{unit}_fraction"] = repetition.measure_top(batch, units, found)
            else:
                columns[f"duplicate_{found.n}_gram_{unit}_fraction"] = copied(batch, units, found)
        return columns

    return measure


def _measure_variant(name: str) -> "Callable[[Measured], _Columns]":
    def measure(measured: Measured) -> _Columns:
        return web_lines.measure_variant(measured.batch, measured.lines, measured.line_facts, name)

    return measure


_GROUPS: dict[tuple[str, ...], Callable[[Measured], _Columns]] = {
    names.WORDS: _measure_words,
    names.TOKENS: _measure_tokens,
    names.STOP_WORDS: _measure_stop_words,
    names.LINES: lambda measured: measure_lines(measured.batch, measured.lines),
    names.PARAGRAPHS: lambda measured: measure_paragraphs(measured.batch, measured.lines),
    **{names.name_repetition(unit): _measure_repetition(unit) for unit in ("word", "token")},
    **{names.name_c4(variant): _measure_variant(variant) for variant in names.C4_VARIANTS},
}
_GROUP_OF = {name: group for group_names, group in _GROUPS.items() for name in group_names}


def compute_signals(texts: Sequence[str], asked: Sequence[str] = names.SIGNALS) -> np.ndarray:
    """The named signals of each text, (num_texts, num_asked) float64. Texts are normalised."""
    rows = np.empty((len(texts), len(asked)))
    for first, chunk in _cut(texts):
        measured, columns = Measured(chunk), dict[str, np.ndarray]()
        for column, name in enumerate(asked):
            if name not in columns:
                columns.update(_GROUP_OF[name](measured))
            rows[first : first + len(chunk), column] = columns[name]
    return rows


def _cut(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Index of the first text and texts of each batch."""
    first, chunk, num_chars = 0, list[str](), 0
    for number, text in enumerate(texts):
        if chunk and num_chars + len(text) > _BATCH_CHARS:
            yield first, chunk
            first, chunk, num_chars = number, [], 0
        chunk.append(text[:MAX_CHARS])
        num_chars += len(text)
    if chunk:
        yield first, chunk


def _contain(batch: Batch, pieces: Pieces, found: np.ndarray) -> np.ndarray:
    """Whether each piece has one of the characters marked in `found`."""
    running = np.concatenate(([0], np.cumsum(found)))
    return running[pieces.end] > running[pieces.start]
