"""Classification: one class per document. The text is the input, cut at the end if it does not fit."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.examples.example import Document, Example, ExampleSettings, Unit

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ClassificationExamples:
    """No token is a target: the loss counts one term per document, its class number."""

    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    packing_methods: ClassVar[tuple[str, ...]] = ("one_per_document",)
    has_labels: ClassVar[bool] = True
    has_label_sets: ClassVar[bool] = False
    needs_end_token: ClassVar[bool] = False
    needs_mask_token: ClassVar[bool] = False
    is_chat: ClassVar[bool] = False

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        self._encoder = TextEncoder(tokenizer, max_tokens=settings.max_tokens)
        self._numbers = {name: number for number, name in enumerate(settings.labels)}

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        encoded = self._encoder.encode([document.text for document in documents])
        for document, (ids, char_start, char_end, num_bytes, num_cut) in zip(documents, encoded, strict=True):
            unit = Unit(ids, np.zeros(len(ids), dtype=bool), char_start, char_end, num_bytes)
            label = self._numbers[document.label] if document.label is not None else None
            yield Example(document.doc_id, [unit if len(ids) else EMPTY_TEXT], label, num_cut)


EMPTY_TEXT = Unit(
    np.zeros(1, np.int32),
    np.zeros(1, bool),
    np.full(1, -1, np.int32),
    np.full(1, -1, np.int32),
    np.zeros(1, np.int32),
)
"""A text without any token is one padding token (id 0), as in scoring."""
