"""Texts to tokens with their characters and bytes. Text can never produce a special token.

A tokenizer with `encode_special_tokens` set reads "</s>" in a text as characters. That is not enough for
models that keep special tokens in their ordinary vocabulary (Unigram: T5, XLM-R): there the characters "</s>"
are a piece like any other. Such a piece is replaced by the unknown token. O(tokens).
"""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.dataset.arrays import expand
from pipelines.dataset.examples.byte_level import find_byte_lengths, find_covered, locate_tokens
from pipelines.dataset.examples.ids import IdEncoder, describe_library

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


class EncodedText(NamedTuple):
    """Arrays are (num_tokens,); see Unit."""

    input_ids: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    num_bytes: np.ndarray
    num_cut_tokens: int


class ForgedTokenError(ValueError):
    """A text spells a special token, and the tokenizer has no unknown token to put in its place."""


class TextEncoder:
    """Encodes texts with the tokenizer's own special tokens (`is_framed`), and ends each with `end_token_id`
    if it is given.

    Byte-level BPE is encoded without the library's offsets (byte_level.py); other tokenizers, and texts whose
    tokens do not cover them, with them. The results are equal.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        *,
        max_tokens: int | None = None,
        end_token_id: int | None = None,
        is_framed: bool = True,
    ) -> None:
        self._tokenizer, self._is_framed = tokenizer, is_framed
        self._unknown_id = find_unknown_id(tokenizer)
        self._special_ids = sorted(find_special_ids(tokenizer) - {self._unknown_id})
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._byte_lengths = find_byte_lengths(tokenizer)
        self._ids = None if self._byte_lengths is None else IdEncoder(tokenizer)
        opening, closing = find_frame(tokenizer) if is_framed else ([], [])
        self._appended_id: int | None = None
        if end_token_id is not None and not closes_texts(tokenizer, end_token_id):
            self._appended_id = end_token_id
            closing = [*closing, end_token_id]
        self._opening, self._closing = opening, closing
        self._max_tokens = max_tokens

    @property
    def needs_offsets(self) -> bool:
        """Whether every text takes the slower way, with the library's offsets."""
        return self._ids is None

    @property
    def description(self) -> str:
        """What makes the tokens, with its version; of the library also why it does."""
        return describe_library("with offsets") if self._ids is None else self._ids.description

    def encode(self, texts: Sequence[str]) -> Iterator[EncodedText]:
        """One result per text, in order."""
        if self._byte_lengths is None or self._ids is None:
            yield from self._encode_with_offsets(texts)
            return
        pieces = self._ids.encode(texts)
        counts = np.array([len(piece) for piece in pieces], dtype=np.int64)  # (num_texts,)
        ids = np.concatenate(pieces)  # (num_tokens,)
        lengths = self._byte_lengths[ids]  # (num_tokens,)
        is_covered = find_covered(texts, counts, lengths) & self._ids.find_normal(texts)
        if is_covered.all():
            yield from self._frame(texts, counts, ids, lengths)
            return
        # Rare: texts that need the library's offsets go one way, the others the other way.
        is_covered_token = np.repeat(is_covered, counts)
        covered = self._frame(
            [text for text, covers in zip(texts, is_covered, strict=True) if covers],
            counts[is_covered],
            ids[is_covered_token],
            lengths[is_covered_token],
        )
        others = self._encode_with_offsets(
            [text for text, covers in zip(texts, is_covered, strict=True) if not covers]
        )
        for covers in is_covered:
            yield next(covered if covers else others)

    def _frame(
        self, texts: Sequence[str], counts: np.ndarray, ids: np.ndarray, lengths: np.ndarray
    ) -> Iterator[EncodedText]:
        """Covered texts, cut to what fits, with the special tokens before and behind each. O(tokens), without
        a Python step per token."""
        num_front, num_frame = len(self._opening), len(self._opening) + len(self._closing)
        room = None if self._max_tokens is None else max(0, self._max_tokens - num_frame)
        kept = counts if room is None else np.minimum(counts, room)  # (num_texts,)
        sizes = kept + num_frame
        starts = np.cumsum(sizes) - sizes
        source, target = expand(np.cumsum(counts) - counts, kept), expand(starts + num_front, kept)
        size = int(sizes.sum())
        values = (ids, *locate_tokens(texts, counts, lengths))
        arrays = [np.full(size, filler, dtype=np.int32) for filler in (0, -1, -1, 0)]
        for array, value in zip(arrays, values, strict=True):
            array[target] = value[source]
        for place, token in enumerate(self._opening):
            arrays[0][starts + place] = token
        for place, token in enumerate(self._closing, start=num_front):
            arrays[0][starts + kept + place] = token
        bounds = zip(starts.tolist(), (starts + sizes).tolist(), (counts - kept).tolist(), strict=True)
        for start, stop, num_cut in bounds:
            ids_of, start_of, end_of, bytes_of = (array[start:stop] for array in arrays)
            yield EncodedText(ids_of, start_of, end_of, bytes_of, num_cut)

    def _encode_with_offsets(self, texts: Sequence[str]) -> Iterator[EncodedText]:
        if self._max_tokens is not None:
            # The library cuts before it adds special tokens, so the closing one stays, as in scoring.
            self._tokenizer.enable_truncation(max_length=self._max_tokens - (self._appended_id is not None))
        try:
            encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=self._is_framed)
        finally:
            self._tokenizer.no_truncation()
        for text, encoding in zip(texts, encodings, strict=True):
            yield self._to_arrays(text, encoding)

    def _to_arrays(self, text: str, encoding: "Encoding") -> EncodedText:
        size = len(encoding)
        ids = np.fromiter(encoding.ids, np.int32, size)  # (num_tokens,)
        is_special = np.fromiter(encoding.special_tokens_mask, bool, size)  # (num_tokens,)
        # From a flat iterator: NumPy takes five times as long to look into tuples.
        flat = np.fromiter(chain.from_iterable(encoding.offsets), np.int32, 2 * size)
        offsets = flat.reshape(-1, 2)  # (num_tokens, 2)
        offsets[is_special] = -1
        ids = self._replace_forged(ids, is_special)
        num_bytes = count_token_bytes(text, offsets[:, 1], is_cut=bool(encoding.overflowing))
        if self._appended_id is not None:
            ids = np.append(ids, np.int32(self._appended_id))  # (num_tokens + 1,)
            offsets = np.append(offsets, np.full((1, 2), -1, np.int32), axis=0)
            num_bytes = np.append(num_bytes, np.int32(0))
        cut = sum(len(rest.ids) - sum(rest.special_tokens_mask) for rest in encoding.overflowing)
        return EncodedText(ids, offsets[:, 0], offsets[:, 1], num_bytes, cut)

    def _replace_forged(self, ids: np.ndarray, is_special: np.ndarray) -> np.ndarray:
        """Put the unknown token where the text itself spelled a special token. Same length."""
        if not self._special_ids:
            return ids
        forged = np.isin(ids, self._special_ids) & ~is_special
        if not forged.any():
            return ids
        if self._unknown_id is None:
            raise ForgedTokenError(
                f"a text spells special token {self._tokenizer.id_to_token(int(ids[forged][0]))!r} and this "
                "tokenizer has no unknown token to put in its place; remove it from the text or choose "
                "another dataset.tokenizer.base"
            )
        return np.where(forged, np.int32(self._unknown_id), ids)


def count_token_bytes(text: str, char_end: np.ndarray, *, is_cut: bool = False) -> np.ndarray:
    """UTF-8 bytes that each token adds to the text before it, (num_tokens,) int32.

    White space between tokens counts to the later token. A character split over several tokens counts once,
    at the first token that reaches its end. Special tokens (`char_end` -1) add none.
    `is_cut`: the tokens cover only a beginning of the text, so what follows the last token is not counted.
    """
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)  # (num_chars,)
    width = 1 + (code_points > 0x7F).astype(np.int64) + (code_points > 0x7FF) + (code_points > 0xFFFF)
    bytes_before = np.concatenate([[0], np.cumsum(width)])  # (num_chars + 1,)
    reached = np.maximum.accumulate(np.maximum(char_end, 0)) if len(char_end) else char_end
    added = np.diff(bytes_before[reached], prepend=0)  # (num_tokens,)
    # What follows the last token (white space that a tokenizer skips) belongs to the last token that is text.
    if len(added) and not is_cut:
        added[int(np.argmax(reached == reached[-1]))] += bytes_before[-1] - bytes_before[reached[-1]]
    return added.astype(np.int32)


def find_special_ids(tokenizer: "Tokenizer") -> set[int]:
    """Ids of all tokens that are marked as special."""
    return {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def find_unknown_id(tokenizer: "Tokenizer") -> int | None:
    """Id of the token for text that the vocabulary does not cover; None = there is none, as in byte-level
    BPE."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:  # Unigram
        return int(model["unk_id"])
    return tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None


def closes_texts(tokenizer: "Tokenizer", token_id: int) -> bool:
    """Whether the tokenizer itself puts this token behind every text."""
    # Not the empty text: where BOS and EOS are one token, it shows that token and not the side on which it
    # stands.
    encoding = tokenizer.encode("a")
    return bool(encoding.ids) and encoding.ids[-1] == token_id and encoding.special_tokens_mask[-1] == 1


def find_frame(tokenizer: "Tokenizer") -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer itself puts before every text, and those behind it."""
    encoding = tokenizer.encode("a")
    text_at = np.flatnonzero(np.asarray(encoding.special_tokens_mask) == 0)
    if not len(text_at):  # it has no token for "a"
        return [], []
    return encoding.ids[: text_at[0]], encoding.ids[text_at[-1] + 1 :]
