"""Places of tokens in a text without the library's offsets, for tokenizers over bytes (GPT-2, Qwen, Llama 3,
ours).

There every token stands for a fixed number of bytes and the tokens of a text cover all of it. So the bytes of
the tokens, summed up, say where each one starts and ends, and the characters follow from the first byte of
each character. NumPy over a whole batch: about 20 ns per token, where the library's offsets cost 700 (it
tracks them through every step, and each becomes a tuple).

The result equals the library's offsets: a token that covers a part of a character has that whole character.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = -1
"""Length of a token whose bytes are not fixed: a special token. A text with one needs the library."""


class TokenPlaces(NamedTuple):
    """Tokens of some texts, end to end; all arrays are (num_tokens,). See Unit."""

    char_start: np.ndarray
    char_end: np.ndarray
    num_bytes: np.ndarray


def find_byte_lengths(tokenizer: "Tokenizer") -> np.ndarray | None:
    """(largest id + 1,) int64 bytes of text that each token stands for, UNKNOWN for special tokens; None if
    the tokenizer is not plain BPE or Unigram over bytes. With the normalizer NFC, they hold for texts in NFC
    only."""
    settings = json.loads(tokenizer.to_str())
    if not _is_byte_level(settings):
        return None
    alphabet = set(ByteLevel.alphabet())  # one character per byte
    vocabulary = _number_tokens(settings["model"])
    added = tokenizer.get_added_tokens_decoder()
    lengths = np.full(max([*vocabulary.values(), *added]) + 1, UNKNOWN, dtype=np.int64)
    for written, number in vocabulary.items():
        if alphabet.issuperset(written):
            lengths[number] = len(written)
    model = settings["model"]
    for unknown in (tokenizer.token_to_id(model.get("unk_token") or ""), model.get("unk_id")):
        if unknown is not None:  # it stands for any bytes
            lengths[unknown] = UNKNOWN
    for number, token in added.items():  # the library looks for them in the text as it is
        lengths[number] = UNKNOWN if token.special else len(token.content.encode())
    return lengths


def _is_byte_level(settings: dict[str, Any]) -> bool:
    """Whether nothing but a byte-level pre-tokenizer stands between the text and the tokens' bytes, and
    nothing changes offsets afterwards."""
    model, steps = settings["model"], _list_steps(settings["pre_tokenizer"], "pretokenizers")
    changes = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    return (
        model["type"] in ("BPE", "Unigram")
        and not any(model.get(name) for name in changes)
        and settings["normalizer"] in (None, {"type": "NFC"})
        and bool(steps)
        and all(step["type"] == "Split" for step in steps[:-1])
        and steps[-1]["type"] == "ByteLevel"
        and not steps[-1]["add_prefix_space"]
        and all(
            step["type"] == "TemplateProcessing" or (step["type"] == "ByteLevel" and not step["trim_offsets"])
            for step in _list_steps(settings["post_processor"], "processors")
        )
    )


def _number_tokens(model: dict[str, Any]) -> dict[str, int]:
    """Token -> id. Unigram lists its tokens with their scores, in the order of the ids."""
    if model["type"] == "BPE":
        return dict(model["vocab"])
    return {token: number for number, (token, _) in enumerate(model["vocab"])}


def _list_steps(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return step[name] if step["type"] == "Sequence" else [step]


def find_covered(texts: Sequence[str], counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(num_texts,) bool: whether the tokens of a text cover exactly its bytes.

    `counts`, (num_texts,): tokens of each text; `lengths`, (num_tokens,): bytes of each token. Not covered is
    a text with a token of UNKNOWN length, or of which a pre-tokenizer removes something.
    """
    stops = np.cumsum(counts)
    before = np.concatenate([[0], np.cumsum(lengths)])  # (num_tokens + 1,)
    num_bytes = np.array([len(text) if text.isascii() else len(text.encode()) for text in texts])
    is_covered = before[stops] - before[stops - counts] == num_bytes
    if (lengths < 0).any():
        unknown_before = np.concatenate([[0], np.cumsum(lengths < 0)])
        is_covered &= unknown_before[stops] == unknown_before[stops - counts]
    return is_covered


def locate_tokens(texts: Sequence[str], counts: np.ndarray, lengths: np.ndarray) -> TokenPlaces:
    """Where the tokens of texts that they cover stand. Arguments as in find_covered."""
    joined = "".join(texts)
    stop = np.cumsum(lengths)  # (num_tokens,) bytes of the whole batch up to the end of each token
    chars = np.array([len(text) for text in texts])
    first_char = np.repeat(np.cumsum(chars) - chars, counts)  # (num_tokens,) of the token's text
    if joined.isascii():  # a character is a byte
        start, num_bytes = stop - lengths, lengths
    else:
        content = np.frombuffer(joined.encode(), dtype=np.uint8)
        is_first = (content & 0xC0) != 0x80  # (num_bytes,) the others continue a character
        char_of_byte = np.cumsum(is_first) - 1
        byte_of_char = np.append(np.flatnonzero(is_first), len(content))  # (num_chars + 1,)
        start, stop = char_of_byte[stop - lengths], char_of_byte[stop - 1] + 1
        # A character split over several tokens counts at the first one: all of them reach its end.
        num_bytes = np.diff(byte_of_char[stop], prepend=0)
    return TokenPlaces(
        (start - first_char).astype(np.int32),
        (stop - first_char).astype(np.int32),
        num_bytes.astype(np.int32),
    )
