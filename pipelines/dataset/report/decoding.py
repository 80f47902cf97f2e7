"""Tokens of a segment -> the text of each, as the tokenizer of the table decodes them.

A token alone does not have its text: some decoders leave out the space before a first word, and of a Chinese
character in bytes a token may be a part. So every token is decoded behind those before it, and what is new
is its text; tokens that only together make a character are one piece. O(tokens) calls of the decoder, of a
few tokens each.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers.pre_tokenizers import ByteLevel

from pipelines.dataset.examples.encode import find_special_ids
from pipelines.dataset.report.content import Piece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_SPLIT = 16
"""Tokens of a piece, at most. One character has at most 4; but tokens may end inside of one after another."""
_INCOMPLETE = "\ufffd"


class PieceDecoder:
    """Decodes with one tokenizer."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer, self._special_ids = tokenizer, find_special_ids(tokenizer)
        self._bytes = _map_bytes() if _is_byte_level(tokenizer) else None

    def decode(self, ids: Sequence[int], is_target: Sequence[bool]) -> list[Piece]:
        """The pieces of neighbouring tokens, in order; every token is in one. Special tokens are pieces of
        their own, and a piece has targets only or none."""
        pieces: list[Piece] = []
        context = pending = 0  # tokens before whose text is decoded again; tokens whose text is not complete

        def add(stop: int, text: str | None) -> None:
            """The tokens from `pending` to `stop`, as one piece of text or each by its name."""
            own, marks = tuple(ids[pending:stop]), set(is_target[pending:stop])
            if text and len(marks) == 1:
                pieces.append(Piece(text, own, *marks))
                return
            for number, mark in zip(own, is_target[pending:stop], strict=True):
                pieces.append(Piece(self._name(number), (number,), mark, is_name=True))

        for at, number in enumerate(ids):
            if number in self._special_ids:
                add(at, None)
                pieces.append(Piece(self._name(number), (number,), is_target[at], is_special=True))
                context = pending = at + 1
                continue
            text = self._decode_new(ids[context:pending], ids[context : at + 1])
            if text is None and at + 1 - pending < MAX_SPLIT:
                continue
            add(at + 1, text)
            context, pending = pending, at + 1
        add(len(ids), None)
        return pieces

    def _decode_new(self, before: Sequence[int], all_ids: Sequence[int]) -> str | None:
        """The text that all have and those before have not; None = its last character is not complete, "" =
        it cannot be told."""
        text = self._tokenizer.decode(list(all_ids), skip_special_tokens=False)
        if text.endswith(_INCOMPLETE):
            return None
        start = self._tokenizer.decode(list(before), skip_special_tokens=False)
        return text[len(start) :] if text.startswith(start) else ""

    def _name(self, number: int) -> str:
        """A token as its vocabulary has it; bytes as hex digits."""
        token = self._tokenizer.id_to_token(number)
        if token is None:
            return f"[{number}]"
        if self._bytes is None or number in self._special_ids or not self._bytes.keys() >= set(token):
            return str(token)
        return " ".join(f"{self._bytes[char]:02X}" for char in token)


def _is_byte_level(tokenizer: "Tokenizer") -> bool:
    return "ByteLevel" in str(tokenizer.decoder)


def _map_bytes() -> dict[str, int]:
    """Character of byte-level BPE -> byte. Bytes that can be printed in Latin-1 stand for themselves, the
    others are numbered from U+0100 (Radford 2019, encoder.py of GPT-2)."""
    alphabet = set(ByteLevel.alphabet())
    others = [byte for byte in range(256) if chr(byte) not in alphabet]
    return {chr(byte): byte for byte in range(256) if chr(byte) in alphabet} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }
