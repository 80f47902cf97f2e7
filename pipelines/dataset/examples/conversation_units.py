"""Conversations of documents to examples: render, encode, and lead the tokens back to the documents' text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from pipelines.dataset.examples.conversation import ConversationRenderer, Rendering
from pipelines.dataset.examples.conversation_encode import ConversationEncoder
from pipelines.dataset.examples.encode import ForgedTokenError
from pipelines.dataset.examples.example import (
    PART_SEPARATOR,
    Document,
    Example,
    ExampleBuilder,
    ExampleSettings,
    Part,
    Unit,
)
from pipelines.dataset.examples.special_tokens import SpecialFinder, mark_written
from pipelines.dataset.examples.template_writer import ASSISTANT, Message, TemplateWriter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Made = TypeVar("Made")
Read = Callable[[Document], list[Message]]
"""The messages of a document. Raises ValueError if it has none that a task can use."""


class ConversationTask:
    """What the tasks of conversations say of themselves (see ExampleBuilder)."""

    columns: ClassVar[tuple[str, ...]] = ("text", "parts")
    packing_methods: ClassVar[tuple[str, ...]] = ("one_per_document", "concatenate", "best_fit")
    has_labels: ClassVar[bool] = False
    has_label_sets: ClassVar[bool] = False
    needs_end_token: ClassVar[bool] = True
    needs_mask_token: ClassVar[bool] = False
    is_chat: ClassVar[bool] = True


class ConversationBuilder(ExampleBuilder, Protocol):
    """A builder that also writes what a model is asked."""

    units: "ConversationUnits"

    def build_prompts(self, documents: Sequence[Document]) -> "Iterator[Prompt]":
        """One prompt per document, in order."""
        ...

    def drop_empty_answer(self, document: Document) -> Document:
        """The document without an empty answer at its end."""
        ...

    def count_answer_bytes(self, document: Document) -> int:
        """UTF-8 bytes of the assistant's turns."""
        ...


def drop_empty_answer(document: Document, is_answer: Callable[[Part], bool]) -> Document:
    """The document without an empty answer at its end, as test sets without answers have it."""
    parts = document.parts or ()
    is_open = len(parts) > 1 and is_answer(parts[-1]) and not parts[-1].text.strip()
    return document._replace(parts=parts[:-1]) if is_open else document


class Prompt(NamedTuple):
    """What a model is given to write the next turn of the assistant."""

    input_ids: list[int]
    problem: str | None = None
    """Why there is no prompt, with the remedy; None = there is one."""


class ConversationUnits:
    """One unit per conversation, or the prompt for its next turn."""

    def __init__(
        self, tokenizer: "Tokenizer", settings: ExampleSettings, template: str, *, opening: str = ""
    ) -> None:
        chat = settings.chat.with_end_token(tokenizer, settings.end_token_id)
        chat = replace(chat, variables=(*chat.variables, ("opening", opening)))
        writer = TemplateWriter(template, chat)
        self.tokenizer = marked = mark_written(tokenizer, writer.probe(), writer.compared)
        """With every token marked as special that the template writes around contents."""
        specials, eos = SpecialFinder(marked), dict(chat.variables).get("eos_token", "")
        self._eos_id = marked.token_to_id(eos)
        self._renderer = ConversationRenderer(writer, specials, self._eos_id)
        self._encoder = ConversationEncoder(marked, max_tokens=settings.max_tokens)

    def find_stop_ids(self) -> frozenset[int]:
        """The tokens of which each ends a turn of the assistant: one of them ends a generation."""
        own = {self._eos_id} if self._eos_id is not None else set()
        return frozenset(self._renderer.find_ends() | own)

    def build(self, documents: Sequence[Document], read: Read) -> Iterator[Example]:
        """One example per document, in order; with a problem if `read`, the template or the tokenizer refuse
        it. Messages are the parts of the document that are not empty, or all of them, in order."""

        def place(document: Document) -> tuple[Rendering, np.ndarray]:
            messages = read(document)
            rendering = self._renderer.render(messages)
            return rendering, locate_characters(document, messages, rendering)

        made = [_try(place, document) for document in documents]
        placed = [each for each in made if not isinstance(each, str)]
        encoded = self._encode([each for each, _ in placed], [place for _, place in placed])
        for document, each in zip(documents, made, strict=True):
            result = each if isinstance(each, str) else next(encoded)
            if isinstance(result, str):
                yield Example(document.doc_id, [], problem=result)
            else:
                unit, num_cut = result
                yield Example(document.doc_id, [unit], num_cut_tokens=num_cut)

    def build_prompts(self, documents: Sequence[Document], read: Read) -> Iterator[Prompt]:
        """One prompt per document, in order: its messages without an answer at the end, and what the template
        writes where the assistant's turn begins. Tokens are those of training before its targets."""

        def render(document: Document) -> Rendering:
            return self._renderer.render_prompt(_drop_answer(read(document)))

        made = [_try(render, document) for document in documents]
        renderings = [each for each in made if not isinstance(each, str)]
        encoded = self._encode(renderings, [each.traced.place for each in renderings])
        for each in made:
            result = each if isinstance(each, str) else next(encoded)
            yield Prompt([], result) if isinstance(result, str) else Prompt(result[0].input_ids.tolist())

    def _encode(
        self, renderings: Sequence[Rendering], places: Sequence[np.ndarray]
    ) -> Iterator[tuple[Unit, int] | str]:
        """Per rendering its unit and the tokens that were cut off, or why the tokenizer refuses it."""
        encoded, num_done = self._encoder.encode(renderings, places), 0
        while num_done < len(renderings):
            try:
                result = next(encoded)
            except ForgedTokenError:
                break
            yield result
            num_done += 1
        for rendering, place in zip(renderings[num_done:], places[num_done:], strict=True):
            # Each alone: of several at once it is not known which one was refused.
            refused = ""
            try:
                (result,) = self._encoder.encode([rendering], [place])
            except ForgedTokenError as error:
                refused = str(error)
            yield refused or result


def _try(make: Callable[[Document], Made], document: Document) -> Made | str:
    """What is made of the document, or why it is refused."""
    try:
        return make(document)
    except ValueError as error:
        return str(error)


def _drop_answer(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages before a turn of the assistant that ends them."""
    return messages[:-1] if messages and messages[-1].role == ASSISTANT else messages


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
