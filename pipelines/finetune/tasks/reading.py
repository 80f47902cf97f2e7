"""What a language model reads of a document: the beginning that it continues, and the tokens that score it.

The seam between language modelling and the forms of documents: plain texts (texts.py) and conversations
(conversations.py).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer

from pipelines.dataset.examples.example import Document
from pipelines.finetune.models.architecture import ModelSpec


class Window(NamedTuple):
    """Tokens that a model sees at once."""

    input_ids: list[int]
    is_target: np.ndarray | None = None
    """(num_tokens,) bool: tokens that count; the first one never does. None = all but the first."""


class Reading(Protocol):
    """One document."""

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes that the targets stand for."""
        ...

    @property
    def problem(self) -> str | None:
        """Why the document cannot be read, with the remedy; it has no windows then. None = it can."""
        ...

    def prompt(self, max_tokens: int) -> list[int]:
        """What the model continues. May be empty."""
        ...

    def windows(self, max_tokens: int) -> Iterator[Window]:
        """Windows of at most max_tokens that overlap by one token: every target is one of a window once."""
        ...


class Reader(Protocol):
    """Reads documents with one tokenizer."""

    stop_ids: frozenset[int]
    """Each of these tokens ends a continuation."""

    def read(self, documents: Sequence[Document], *, with_prompts: bool) -> Sequence[Reading]:
        """One reading per document, in order; without prompts they are empty."""
        ...

    def decode(self, sequences: Sequence[list[int]]) -> list[str]:
        """Texts of token lists, without special tokens."""
        ...


OpenReader = Callable[[Tokenizer, ModelSpec], Reader]
