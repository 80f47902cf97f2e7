"""Multi-label classification: any number of classes per document, none included. The text is the input, cut
at the end if it does not fit."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipelines.dataset.examples.classification import EMPTY_TEXT
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.examples.example import Document, Example, ExampleSettings, Unit
from pipelines.label_sets import read_label_set

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class MultiLabelClassificationExamples:
    """No token is a target: the target of a document is its set of classes."""

    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    packing_methods: ClassVar[tuple[str, ...]] = ("one_per_document",)
    has_labels: ClassVar[bool] = True
    has_label_sets: ClassVar[bool] = True
    needs_end_token: ClassVar[bool] = False
    needs_mask_token: ClassVar[bool] = False
    is_chat: ClassVar[bool] = False

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        self._encoder = TextEncoder(tokenizer, max_tokens=settings.max_tokens)
        self._numbers = {name: number for number, name in enumerate(settings.labels)}

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        """Raises ValueError for a label that is no set."""
        encoded = self._encoder.encode([document.text for document in documents])
        for document, (ids, char_start, char_end, num_bytes, num_cut) in zip(documents, encoded, strict=True):
            unit = Unit(ids, np.zeros(len(ids), dtype=bool), char_start, char_end, num_bytes)
            yield Example(
                document.doc_id, [unit if len(ids) else EMPTY_TEXT], self._number(document.label), num_cut
            )

    def _number(self, label: str | None) -> tuple[int, ...] | None:
        """Class numbers, ascending. Null: a document that is counted before there are classes."""
        return None if label is None else tuple(sorted(self._numbers[name] for name in read_label_set(label)))
