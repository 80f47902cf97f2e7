"""Conversations of documents to examples: render, encode, and lead the tokens back to the documents' text."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipelines.dataset.examples.conversation import ConversationRenderer, Rendering
from pipelines.dataset.examples.conversation_encode import ConversationEncoder
from pipelines.dataset.examples.example import Document, Example, ExampleSettings
from pipelines.dataset.examples.special_tokens import SpecialFinder, mark_written
from pipelines.dataset.examples.template_writer import Message, TemplateWriter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PART_SEPARATOR = "\n\n"
"""Between parts in the text of a document; corpus/readers/mapping.py writes it."""


class ConversationUnits:
    """One unit per conversation."""

    def __init__(
        self, tokenizer: "Tokenizer", settings: ExampleSettings, template: str, *, opening: str = ""
    ) -> None:
        chat = settings.chat.with_end_token(tokenizer, settings.end_token_id)
        chat = replace(chat, variables=(*chat.variables, ("opening", opening)))
        writer = TemplateWriter(template, chat)
        marked = mark_written(tokenizer, writer.probe(), writer.compared)
        specials, eos = SpecialFinder(marked), dict(chat.variables).get("eos_token", "")
        self._renderer = ConversationRenderer(writer, specials, marked.token_to_id(eos))
        self._encoder = ConversationEncoder(marked, max_tokens=settings.max_tokens)

    def build(
        self, documents: Sequence[Document], conversations: Sequence[Sequence[Message]]
    ) -> Iterator[Example]:
        """One example per document, in order. Messages are the parts of the document that are not empty, or
        all of them, in order."""
        renderings = [
            self._render(document, messages)
            for document, messages in zip(documents, conversations, strict=True)
        ]
        places = [
            locate_characters(document, messages, rendering)
            for document, messages, rendering in zip(documents, conversations, renderings, strict=True)
        ]
        encoded = self._encoder.encode(renderings, places)
        for document, (unit, num_cut) in zip(documents, encoded, strict=True):
            yield Example(document.doc_id, [unit], num_cut_tokens=num_cut)

    def _render(self, document: Document, messages: Sequence[Message]) -> Rendering:
        try:
            return self._renderer.render(messages)
        except ValueError as error:
            raise ValueError(f"document {document.doc_id}: {error}") from error


def locate_characters(document: Document, messages: Sequence[Message], rendering: Rendering) -> np.ndarray:
    """(num_chars,) int32: where each character of a rendering is in the document's text; -1 = nowhere.

    If a source maps a text of its own, the messages are not in it.
    """
    written = [message.content for message in messages if message.content]
    if document.text != PART_SEPARATOR.join(written):
        return np.full(len(rendering.traced.text), -1, np.int32)
    starts, start = [], 0
    for message in messages:
        starts.append(start)
        start += len(message.content) + len(PART_SEPARATOR) if message.content else 0
    traced = rendering.traced
    first = np.array(starts, dtype=np.int32)[traced.message]  # (num_chars,) of the template: any
    return np.where(traced.place >= 0, first + traced.place, -1).astype(np.int32)
