"""Language modelling: predict every token of a document, the end token included, from those before it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.examples.example import Document, Example, ExampleSettings, Unit

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class LanguageModellingExamples:
    """Every document ends in the end-of-text token, so a model learns where to stop.

    Tokenizers that append it themselves (the BPE trained here, BERT's [SEP]) are left as they are; for others
    (GPT-2, Qwen, and Llama, which adds only a BOS token in front) it is appended here.
    """

    columns: ClassVar[tuple[str, ...]] = ("text",)
    packing_methods: ClassVar[tuple[str, ...]] = ("one_per_document", "concatenate", "best_fit")
    has_labels: ClassVar[bool] = False
    has_label_sets: ClassVar[bool] = False
    needs_end_token: ClassVar[bool] = True
    needs_mask_token: ClassVar[bool] = False
    is_chat: ClassVar[bool] = False

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        self._encoder = TextEncoder(
            tokenizer, max_tokens=settings.max_tokens, end_token_id=settings.end_token_id
        )

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        encoded = self._encoder.encode([document.text for document in documents])
        for document, (ids, char_start, char_end, num_bytes, num_cut) in zip(documents, encoded, strict=True):
            is_target = np.ones(len(ids), dtype=bool)
            is_target[:1] = False  # nothing comes before the first token
            unit = Unit(ids, is_target, char_start, char_end, num_bytes)
            yield Example(document.doc_id, [unit], num_cut_tokens=num_cut)
