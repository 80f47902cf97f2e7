"""Texts to token lists for prediction, in bounded memory, and lists to batches. No torch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tokenizers import Tokenizer

from pipelines.dataset.examples.encode import find_special_ids, find_unknown_id
from pipelines.dataset.examples.example import Document
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.tasks.reading import Window

Item = TypeVar("Item")

PIECE_CHARS = 65_536
"""Long texts are tokenized in pieces: one call on a document of 16 MiB would take gigabytes."""
FIRST_CHARS = 1024
"""Beginning of a text in which its first token is looked for."""
CHARS_PER_TOKEN = 16
"""First guess of the characters that fill a window; doubled until it is full."""


class ForgedTokens:
    """Removes special tokens that a text spells itself, as the dataset stage does.

    Unigram tokenizers (T5, XLM-R) read the characters "</s>" as the end token. It becomes the unknown token;
    if the tokenizer has none, it is left out, because one text must not stop the scoring of a table.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        unknown_id = find_unknown_id(tokenizer)
        self._special_ids = find_special_ids(tokenizer) - {unknown_id}
        self._replacement = [] if unknown_id is None else [unknown_id]

    def are_in(self, ids: list[int]) -> bool:
        """Whether a text, encoded to `ids` without special tokens, spells one."""
        return not self._special_ids.isdisjoint(ids)

    def replace(self, ids: list[int]) -> list[int]:
        """`ids` of a text, encoded without special tokens, without those that the text spells."""
        if not self.are_in(ids):
            return ids
        kept = [self._replacement if token in self._special_ids else [token] for token in ids]
        return [token for tokens in kept for token in tokens]


def encode_start(tokenizer: Tokenizer, forged: ForgedTokens, text: str, max_tokens: int) -> list[int]:
    """The first tokens of a text as training cuts them: at most max_tokens, the special tokens included.

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
    has_forged = forged.are_in(encoding.ids)
    processed = tokenizer.post_process(encoding)
    ids: list[int] = processed.ids
    if has_forged:
        special = processed.special_tokens_mask
        parts = [[token] if own else forged.replace([token]) for token, own in zip(ids, special, strict=True)]
        ids = [token for part in parts for token in part]
    return ids


class DocumentEncoder:
    """A text as a document of language modelling: opening special tokens (such as BOS), text, closing ones,
    end token.

    `end_token_id` is the end token of the model; null = the last special token that the tokenizer puts behind
    a text.
    """

    def __init__(self, tokenizer: Tokenizer, end_token_id: int | None) -> None:
        self._tokenizer, self._forged = tokenizer, ForgedTokens(tokenizer)
        self._opening, self._closing = _find_special_tokens(tokenizer)
        if end_token_id is not None and end_token_id not in self._closing[-1:]:
            self._closing = [*self._closing, end_token_id]
        self.end_token_id = self._closing[-1] if self._closing else None
        """Ends a document and a continuation; null = the tokenizer has none."""

    def encode_prompt(self, text: str, max_tokens: int) -> list[int]:
        """The first tokens of the document. May be empty."""
        first = self._encode_text(text[: max_tokens * CHARS_PER_TOKEN])
        return [*self._opening, *first][:max_tokens]

    def encode_windows(self, text: str, max_tokens: int) -> Iterator[list[int]]:
        """Windows of at most max_tokens that overlap by one token: each token but the document's first is
        once a target, that is not the first of its window.
        """
        held = list(self._opening)
        for piece in split_text(text):
            held += self._encode_text(piece)
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

    def _encode_text(self, text: str) -> list[int]:
        return self._forged.replace(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, sequences: Sequence[list[int]]) -> list[str]:
        """Texts of token lists, without special tokens."""
        return [str(text) for text in self._tokenizer.decode_batch(sequences, skip_special_tokens=True)]


class TextReading:
    """A plain document: every token but the first is a target."""

    problem = None

    def __init__(self, encoder: DocumentEncoder, text: str) -> None:
        self._encoder, self._text = encoder, text

    @property
    def num_bytes(self) -> int:
        return self._encoder.count_predicted_bytes(self._text)

    def prompt(self, max_tokens: int) -> list[int]:
        return self._encoder.encode_prompt(self._text, max_tokens)

    def windows(self, max_tokens: int) -> Iterator[Window]:
        return map(Window, self._encoder.encode_windows(self._text, max_tokens))


class TextReader:
    """Reads the texts of documents; nothing is encoded before it is asked for."""

    def __init__(self, tokenizer: Tokenizer, spec: ModelSpec) -> None:
        self._encoder = DocumentEncoder(tokenizer, spec.end_token_id)
        end = self._encoder.end_token_id
        self.stop_ids = frozenset[int]() if end is None else frozenset({end})

    def read(self, documents: Sequence[Document], *, with_prompts: bool) -> list[TextReading]:
        return [TextReading(self._encoder, document.text) for document in documents]

    def decode(self, sequences: Sequence[list[int]]) -> list[str]:
        return self._encoder.decode(sequences)


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
