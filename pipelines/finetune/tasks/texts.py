"""Texts to token lists for prediction, in bounded memory, and lists to batches. No torch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tokenizers import Tokenizer

Item = TypeVar("Item")

PIECE_CHARS = 65_536
"""Long texts are tokenized in pieces: one call on a document of 16 MiB would take gigabytes."""
FIRST_CHARS = 1024
"""Beginning of a text in which its first token is looked for."""
CHARS_PER_TOKEN = 16
"""First guess of the characters that fill a window; doubled until it is full."""


def encode_start(tokenizer: Tokenizer, text: str, max_tokens: int) -> list[int]:
    """The first tokens of a text as training cuts them: at most max_tokens with the special tokens, which
    stay.

    Only a prefix of the text that is long enough is tokenized.
    """
    room = max(0, max_tokens - len(tokenizer.encode("").ids))
    num_chars = max(1, room) * CHARS_PER_TOKEN
    while True:
        encoding = tokenizer.encode(text[:num_chars], add_special_tokens=False)
        # One spare token: the last one of a prefix may be half a word.
        if num_chars >= len(text) or len(encoding.ids) > room + 1:
            break
        num_chars *= 2
    encoding.truncate(room)
    ids: list[int] = tokenizer.post_process(encoding).ids
    return ids


class DocumentEncoder:
    """A text as a document of language modelling: opening special tokens (such as BOS), text, closing ones,
    end token.

    `end_token_id` is the end token of the model; null = the last special token that the tokenizer puts behind
    a text.
    """

    def __init__(self, tokenizer: Tokenizer, end_token_id: int | None) -> None:
        self._tokenizer = tokenizer
        self._opening, self._closing = _find_special_tokens(tokenizer)
        if end_token_id is not None and end_token_id not in self._closing[-1:]:
            self._closing = [*self._closing, end_token_id]
        self.end_token_id = self._closing[-1] if self._closing else None
        """Ends a document and a continuation; null = the tokenizer has none."""

    def encode_prompt(self, text: str, max_tokens: int) -> list[int]:
        """The first tokens of the document. May be empty."""
        first = self._tokenizer.encode(text[: max_tokens * CHARS_PER_TOKEN], add_special_tokens=False).ids
        return [*self._opening, *first][:max_tokens]

    def encode_windows(self, text: str, max_tokens: int) -> Iterator[list[int]]:
        """Windows of at most max_tokens that overlap by one token: each token but the document's first is
        once a target, that is not the first of its window.
        """
        held = list(self._opening)
        for piece in split_text(text):
            held += self._tokenizer.encode(piece, add_special_tokens=False).ids
            while len(held) > max_tokens:
                yield held[:max_tokens]
                held = held[max_tokens - 1 :]
        held += self._closing
        while len(held) > 1:
            yield held[:max_tokens]
            held = held[max_tokens - 1 :]

    def count_predicted_bytes(self, text: str) -> int:
        """UTF-8 bytes of the text that some predicted token stands for: all but those of a first token that
        opens the document.
        """
        first_bytes = 0
        if not self._opening and text:
            offsets = self._tokenizer.encode(text[:FIRST_CHARS], add_special_tokens=False).offsets
            end = offsets[0][1] if offsets else len(text)
            first_bytes = len(text[:end].encode())
        return len(text.encode()) - first_bytes

    def decode(self, sequences: Sequence[list[int]]) -> list[str]:
        """Texts of token lists, without special tokens."""
        return [str(text) for text in self._tokenizer.decode_batch(sequences, skip_special_tokens=True)]


def _find_special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before a text, and those that it puts behind it."""
    encoding = tokenizer.encode("a")
    text_at = [place for place, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
    return encoding.ids[: text_at[0]], encoding.ids[text_at[-1] + 1 :]


def split_text(text: str) -> Iterator[str]:
    """The text in pieces of at most PIECE_CHARS, cut before white space if there is some: tokens rarely span
    it.
    """
    start = 0
    while start < len(text):
        stop = min(start + PIECE_CHARS, len(text))
        if stop < len(text):
            space = max(text.rfind(" ", start + 1, stop), text.rfind("\n", start + 1, stop))
            stop = space if space > start else stop
        yield text[start:stop]
        start = stop


def batch_by_length(sequences: Sequence[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, which saves padding. Ties keep the order of the rows."""
    return batched(sorted(range(len(sequences)), key=lambda row: len(sequences[row])), batch_size)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
