"""Rendered conversations to tokens. What a template writes may be a special token; what a message says never.

A rendering is cut at its special tokens, and where a prompt for the assistant ends; the runs between are
encoded as plain text. At special tokens the library itself cuts, so the ids are those of the library for the
whole rendering. A prompt that is sent to a model is a text of its own, so no token goes across its end here
either: "assistant\\n" and "\\nHello" stay apart.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.dataset.examples.conversation import Rendering
from pipelines.dataset.examples.encode import EncodedText, TextEncoder
from pipelines.dataset.examples.example import Unit
from pipelines.dataset.examples.marks import Traced
from pipelines.dataset.examples.special_tokens import Special, SpecialFinder
from pipelines.dataset.tokenizer import from_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROBED_TOKENS = 100
"""Special tokens that are tried; some tokenizers have thousands, all alike."""
AT_START, BEHIND_SPECIAL, BEHIND_CUT = range(3)
"""Where a run begins. Tokenizers that put a space before a text do so at the start, some behind a special
token, none in the middle of a text."""


class Run(NamedTuple):
    """Plain text between special tokens and cuts."""

    start: int
    stop: int
    kind: int


class ConversationEncoder:
    """Encodes renderings; whole ones are cut to the first `max_tokens` tokens if it is given."""

    def __init__(self, tokenizer: "Tokenizer", *, max_tokens: int | None = None) -> None:
        self._max_tokens: int | None = None
        written = tokenizer.to_str()
        by_json: dict[str, TextEncoder] = {written: TextEncoder(tokenizer, is_framed=False)}
        for kind in (BEHIND_SPECIAL, BEHIND_CUT):
            variant = _leave_out_prefix(written, kind)
            if variant not in by_json:
                by_json[variant] = TextEncoder(from_json(variant), is_framed=False)
        self._encoders = [by_json[_leave_out_prefix(written, kind)] for kind in range(3)]
        self._require_equal(written)
        self._max_tokens = max_tokens

    def encode(
        self, renderings: Sequence[Rendering], places: Sequence[np.ndarray]
    ) -> Iterator[tuple[Unit, int]]:
        """One unit per rendering, and the tokens that were cut off. `places`, (num_chars,) int32 each: where
        every character is in the text of the document; -1 = nowhere."""
        runs = [_find_runs(rendering) for rendering in renderings]
        texts: list[list[str]] = [[], [], []]
        for rendering, own in zip(renderings, runs, strict=True):
            for run in own:
                texts[run.kind].append(rendering.traced.text[run.start : run.stop])
        encoded = [encoder.encode(batch) for encoder, batch in zip(self._encoders, texts, strict=True)]
        for rendering, own, place in zip(renderings, runs, places, strict=True):
            pieces = [(run.start, next(encoded[run.kind])) for run in own]
            unit = _make_unit(rendering, _join(pieces, rendering.specials), place)
            size = len(unit.input_ids)
            kept = size if self._max_tokens is None else min(size, self._max_tokens)
            yield Unit(*(array[:kept] for array in unit)), size - kept

    def _require_equal(self, written: str) -> None:
        """Raise ValueError if special tokens in a text lead to other ids than the library's: some settings of
        a tokenizer may act across them."""
        library = from_json(written)
        library.encode_special_tokens = False
        finder = SpecialFinder(library)
        specials = [token.content for token in library.get_added_tokens_decoder().values() if token.special]
        words = ["a b", " c\n", "d ", "\n\ne"]
        text = "".join(word + special for special in specials[:PROBED_TOKENS] for word in words)
        is_template = np.ones(len(text), dtype=bool)
        traced = Traced(text, np.full(len(text), -1), np.full(len(text), -1), np.arange(len(text) + 1), [])
        probe = Rendering(traced, finder.find(text, is_template), np.zeros(len(text), dtype=bool), [])
        ((unit, _),) = self.encode([probe], [traced.place])
        if unit.input_ids.tolist() != library.encode(text, add_special_tokens=False).ids:
            raise ValueError(
                "this tokenizer treats text beside special tokens in a way that is not known here, so "
                "conversations would get other tokens than at inference; choose another "
                "dataset.tokenizer.base"
            )


def _find_runs(rendering: Rendering) -> list[Run]:
    runs, start, kind = [], 0, AT_START
    size = len(rendering.traced.text)
    for special in [*rendering.specials, Special(size, size, -1, size, size)]:
        cuts = [cut for cut in rendering.cuts if start < cut < special.start]
        for first, last in pairwise([start, *cuts, special.start]):
            if first < last:
                runs.append(Run(first, last, kind if first == start else BEHIND_CUT))
        start, kind = special.stop, BEHIND_SPECIAL
    return runs


class Tokens(NamedTuple):
    """The tokens of a rendering, in order; arrays are (num_tokens,) int32, places are characters."""

    ids: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    judged_start: np.ndarray
    """A token is a target if one of its characters from here to judged_stop is. Of a special token it is its
    first own character: the white space that it takes may be that of an answer."""
    judged_stop: np.ndarray


def _join(pieces: Sequence[tuple[int, EncodedText]], specials: list[Special]) -> Tokens:
    parts: list[tuple[int, tuple[np.ndarray, ...]]] = []
    for first, text in pieces:
        start, stop = first + text.char_start, first + text.char_end
        parts.append((first, (text.input_ids, start, stop, start, stop)))
    for each in specials:
        values = (each.token_id, each.start, each.stop, each.own_start, each.own_start + 1)
        parts.append((each.start, tuple(np.array([value]) for value in values)))
    parts.sort(key=lambda part: part[0])
    columns = zip(*(columns for _, columns in parts), strict=True) if parts else [(np.empty(0),)] * 5
    return Tokens(*(np.concatenate(column).astype(np.int32) for column in columns))


def _make_unit(rendering: Rendering, tokens: Tokens, place: np.ndarray) -> Unit:
    """O(characters)."""
    start, stop = tokens.start, tokens.stop
    targets_before = np.concatenate([[0], np.cumsum(rendering.is_target)])  # (num_chars + 1,)
    is_target = targets_before[tokens.judged_stop] > targets_before[tokens.judged_start]
    is_target[:1] = False  # nothing comes before the first token
    # The first and the last character of the document in each token.
    size = len(place)
    number = np.arange(size)
    following = np.minimum.accumulate(np.where(place >= 0, number, size)[::-1])[::-1]
    following = np.append(following, size)[start]  # (num_tokens,)
    preceding = np.maximum.accumulate(np.where(place >= 0, number, -1))
    preceding = np.append(preceding, -1)[stop - 1]  # (num_tokens,)
    has_place = (following < stop) & (preceding >= following)
    places = np.append(place, -1)
    char_start = np.where(has_place, places[np.where(has_place, following, -1)], -1)
    char_end = np.where(has_place, places[np.where(has_place, preceding, -1)] + 1, -1)
    # A token across two messages that the template writes in another order has no one place in the text.
    is_turned = char_start > char_end
    char_start[is_turned] = char_end[is_turned] = -1
    num_bytes = _count_bytes(rendering, stop)
    return Unit(tokens.ids, is_target, char_start.astype(np.int32), char_end.astype(np.int32), num_bytes)


def _count_bytes(rendering: Rendering, stop: np.ndarray) -> np.ndarray:
    """(num_tokens,) int32 bytes of messages that each token adds: a character counts at the first token that
    reaches its end. What the template writes has none."""
    code_points = np.frombuffer(rendering.traced.text.encode("utf-32-le"), dtype=np.uint32)  # (num_chars,)
    width = 1 + (code_points > 0x7F).astype(np.int64) + (code_points > 0x7FF) + (code_points > 0xFFFF)
    before = np.concatenate([[0], np.cumsum(np.where(rendering.traced.message >= 0, width, 0))])
    reached = np.maximum.accumulate(stop) if len(stop) else stop
    return np.diff(before[reached], prepend=0).astype(np.int32)


def _leave_out_prefix(written: str, kind: int) -> str:
    """The JSON of a tokenizer that puts no space before a run of this kind; as it was if it puts none."""
    settings: dict[str, Any] = json.loads(written)
    is_changed = False
    for step in _list_steps(settings["pre_tokenizer"], "pretokenizers"):
        scheme = step.get("prepend_scheme")
        if scheme == "first" or (scheme == "always" and kind == BEHIND_CUT):
            step["prepend_scheme"], is_changed = "never", True
        if step["type"] == "ByteLevel" and step["add_prefix_space"] and kind == BEHIND_CUT:
            step["add_prefix_space"], is_changed = False, True
    if kind == BEHIND_CUT:
        for step in _list_steps(settings["normalizer"], "normalizers"):
            if step["type"] == "Prepend":
                step["prepend"], is_changed = "", True
    return json.dumps(settings, ensure_ascii=False) if is_changed and kind != AT_START else written


def _list_steps(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return step[name] if step["type"] == "Sequence" else [step]
