"""The seam between a task and the rest of the dataset stage: a builder turns documents into examples.

It is exactly this wide: a builder sees whole documents (text, label, named parts, metadata) and returns
encoded units; it knows nothing of rows, packing or tables. A packing method sees units and knows nothing of
tasks. So a task is one file here.

    document --builder--> example (one or more units) --packing--> sequences (rows)

In a row, every unit (or piece of a unit) is a segment of its own.

A unit is a run of tokens that attend to each other and to nothing else. Most tasks make one unit per
document. A preference makes two (prompt + chosen, prompt + rejected), a retrieval pair one per text;
`one_per_document` keeps them together in one row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import numpy as np

from pipelines.dataset.chat_format import ChatFormat

if TYPE_CHECKING:
    from tokenizers import Tokenizer


PART_SEPARATOR = "\n\n"
"""Between parts in the text of a document; corpus/readers/mapping.py writes it."""


class Part(NamedTuple):
    """A named piece of a structured document, such as one turn of a dialogue."""

    name: str
    text: str


class Document(NamedTuple):
    """One kept document, with the columns that the builder reads; the others are None."""

    doc_id: str
    text: str
    label: str | None = None
    parts: tuple[Part, ...] | None = None
    """In order; None = plain text."""
    metadata: dict[str, str] | None = None


class Unit(NamedTuple):
    """Tokens that attend to each other and to nothing else. All arrays are (num_tokens,)."""

    input_ids: np.ndarray
    """int32, special tokens included."""
    is_target: np.ndarray
    """bool: tokens that the loss counts. The first one is never a target: it has no context."""
    char_start: np.ndarray
    """int32: where each token starts in the document's text; -1 = not in the text (a special token)."""
    char_end: np.ndarray
    num_bytes: np.ndarray
    """int32: UTF-8 bytes of the text that each token adds; they sum to the bytes of the text that was not cut
    off."""


class Example(NamedTuple):
    """One document, encoded."""

    doc_id: str
    units: list[Unit]
    label: int | tuple[int, ...] | None = None
    """Class number, or those of a set, ascending; None = the targets are tokens."""
    num_cut_tokens: int = 0
    """Tokens cut off because the document did not fit."""
    problem: str | None = None
    """Why nothing can be learned from the document, with the remedy: it has no units then. None = it can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSettings:
    """What a builder knows besides the tokenizer."""

    labels: tuple[str, ...] = ()
    """Class names by class number; empty = the task has no classes."""
    max_tokens: int | None = None
    """Longest unit; a longer text is cut. A row of several units may be longer. None = documents of any
    length (packing cuts them into rows)."""
    end_token_id: int | None = None
    """Token that ends a document; None = the tokenizer has none."""
    chat: ChatFormat = field(default_factory=ChatFormat)
    """How conversations are written."""


class ExampleBuilder(Protocol):
    """Turns documents into examples. Made once per Python worker; it owns its tokenizer and may change its
    settings."""

    columns: ClassVar[tuple[str, ...]]
    """Columns of `documents` that it reads besides doc_id; others are never shuffled."""
    packing_methods: ClassVar[tuple[str, ...]]
    """Names in PACKERS that fit the task."""
    has_labels: ClassVar[bool]
    """Whether every document needs a label, which becomes a class number."""
    has_label_sets: ClassVar[bool]
    """Whether that label is a set (pipelines/label_sets.py), which becomes class numbers."""
    needs_end_token: ClassVar[bool]
    """Whether documents end in the tokenizer's end-of-text token."""
    needs_mask_token: ClassVar[bool]
    """Whether tokens are masked when a model is trained."""
    is_chat: ClassVar[bool]
    """Whether it reads `ExampleSettings.chat`."""

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None: ...

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        """One example per document, in order."""
        ...
