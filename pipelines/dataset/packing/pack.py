"""Encoded documents into sequences of at most `length` tokens. NumPy only.

Two ways: `one_per_document` (classification: the encoder has cut each document to `length` and counted what it cut) and
`concatenate` (language modelling: documents end to end, cut every `length` tokens: every token once and in order). O(tokens).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class EncodedDocument(NamedTuple):
    doc_id: str
    input_ids: np.ndarray
    """(num_tokens,) int32, special tokens included."""
    char_start: np.ndarray
    """(num_tokens,) int32: where each token starts in the text; -1 = special token."""
    char_end: np.ndarray
    num_bytes: np.ndarray
    """(num_tokens,) int32: UTF-8 bytes of the text that each token adds; they sum to those of the text that was not cut off."""
    num_cut_tokens: int = 0
    """Tokens the encoder cut off at the end."""


class Segment(NamedTuple):
    doc_id: str
    first_token: int
    num_tokens: int
    char_start: int
    char_end: int


class PackedSequence(NamedTuple):
    input_ids: np.ndarray
    num_bytes: np.ndarray
    """(num_tokens,) bytes of each token."""
    segments: list[Segment]
    num_cut_tokens: int
    """Tokens of the document that did not fit."""


def token_bytes(text: str, char_end: np.ndarray, *, is_cut: bool = False) -> np.ndarray:
    """Bytes that each token adds to the text before it, white space between tokens counted to the later one.

    A character split over several tokens is counted once, at the first token that reaches its end. Special tokens add none.
    `is_cut`: the tokens are those of a beginning of the text; what follows them is not counted.
    """
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    width = 1 + (code_points > 0x7F).astype(np.int64) + (code_points > 0x7FF) + (code_points > 0xFFFF)
    bytes_before = np.concatenate([[0], np.cumsum(width)])
    reached = np.maximum.accumulate(np.maximum(char_end, 0)) if len(char_end) else char_end
    # What follows the last token (white space a tokenizer skips) belongs to the last token that is text.
    added = np.diff(bytes_before[reached], prepend=0)
    if len(added) and not is_cut:
        added[int(np.argmax(reached == reached[-1]))] += bytes_before[-1] - bytes_before[reached[-1]]
    return added.astype(np.int32)


def one_per_document(documents: Iterable[EncodedDocument], *, length: int) -> Iterator[PackedSequence]:
    """One sequence a document."""
    for document in documents:
        if len(document.input_ids) > length:
            raise ValueError(
                f"document {document.doc_id} has {len(document.input_ids)} tokens, at most {length} fit; "
                "encode with truncation"
            )
        yield PackedSequence(
            document.input_ids,
            document.num_bytes,
            [_segment(document, 0, length, 0)],
            document.num_cut_tokens,
        )


def concatenate(documents: Iterable[EncodedDocument], *, length: int) -> Iterator[PackedSequence]:
    """All tokens in order; every sequence full but the last."""
    ids: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    segments: list[Segment] = []
    filled = 0
    for document in documents:
        position = 0
        while position < len(document.input_ids):
            stop = min(position + length - filled, len(document.input_ids))
            ids.append(document.input_ids[position:stop])
            sizes.append(document.num_bytes[position:stop])
            segments.append(_segment(document, position, stop, filled))
            filled += stop - position
            position = stop
            if filled == length:
                yield PackedSequence(np.concatenate(ids), np.concatenate(sizes), segments, 0)
                ids, sizes, segments, filled = [], [], [], 0
    if filled:
        yield PackedSequence(np.concatenate(ids), np.concatenate(sizes), segments, 0)


def _segment(document: EncodedDocument, start: int, stop: int, first_token: int) -> Segment:
    starts, ends = document.char_start[start:stop], document.char_end[start:stop]
    real = starts >= 0
    char_start, char_end = (int(starts[real].min()), int(ends[real].max())) if real.any() else (0, 0)
    return Segment(document.doc_id, first_token, len(starts), char_start, char_end)
