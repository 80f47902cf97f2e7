"""Masked language modelling: every token of the text may be masked; which ones are is drawn at training time.

So a sequence has other masks each time that a training sees it. Special tokens are never masked.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from pipelines.dataset.examples.classification import EMPTY_TEXT
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.examples.example import Document, Example, ExampleSettings, Unit

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class MaskedLanguageModellingExamples:
    """The text with the tokenizer's own special tokens, such as [CLS] and [SEP]. The targets are the tokens
    that may be masked."""

    columns: ClassVar[tuple[str, ...]] = ("text",)
    packing_methods: ClassVar[tuple[str, ...]] = ("one_per_document", "concatenate", "best_fit")
    has_labels: ClassVar[bool] = False
    has_label_sets: ClassVar[bool] = False
    needs_end_token: ClassVar[bool] = False
    needs_mask_token: ClassVar[bool] = True
    is_chat: ClassVar[bool] = False

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        self._encoder = TextEncoder(tokenizer, max_tokens=settings.max_tokens)

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        encoded = self._encoder.encode([document.text for document in documents])
        for document, (ids, char_start, char_end, num_bytes, num_cut) in zip(documents, encoded, strict=True):
            is_target = char_start >= 0
            # Packing takes no piece whose first token is a target, although an encoder needs no context.
            is_target[:1] = False
            unit = Unit(ids, is_target, char_start, char_end, num_bytes)
            yield Example(document.doc_id, [unit if len(ids) else EMPTY_TEXT], num_cut_tokens=num_cut)
