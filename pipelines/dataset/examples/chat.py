"""Chat: the turns of a dialogue as the tokenizer's chat template writes them; targets are the assistant's."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipelines.dataset.chat_rules import ROLES
from pipelines.dataset.examples.conversation_units import (
    ConversationTask,
    ConversationUnits,
    Prompt,
    drop_empty_answer,
)
from pipelines.dataset.examples.example import Document, Example, ExampleSettings, Part
from pipelines.dataset.examples.template_writer import ASSISTANT, Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer

USER = "user"
MAY_BE_EMPTY = ("system", "tool")
"""A tool may return nothing."""


class ChatExamples(ConversationTask):
    """The parts of a document are its turns, named by role (corpus.sources[].messages). A turn's text never
    becomes a special token. Where a conversation is too long, its end is cut off."""

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        if settings.chat.template is None:
            raise ValueError(
                "task chat needs a chat template, and the tokenizer has none; set "
                "dataset.tokenizer.chat.template to a Jinja file, or dataset.tokenizer.base to a chat model"
            )
        self._roles = {**{role: role for role in ROLES}, **dict(settings.chat.roles)}
        self.units = ConversationUnits(tokenizer, settings, settings.chat.template)

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        yield from self.units.build(documents, self._read_dialogue)

    def build_prompts(self, documents: Sequence[Document]) -> Iterator[Prompt]:
        """A document without parts is a message of the user."""
        yield from self.units.build_prompts(documents, self._read_turns)

    def drop_empty_answer(self, document: Document) -> Document:
        return drop_empty_answer(document, lambda part: self._roles.get(part.name) == ASSISTANT)

    def count_answer_bytes(self, document: Document) -> int:
        parts = document.parts or ()
        return sum(len(part.text.encode()) for part in parts if self._roles.get(part.name) == ASSISTANT)

    def _read_dialogue(self, document: Document) -> list[Message]:
        """The turns. Raises ValueError if they are no conversation to learn from."""
        if not document.parts:
            raise ValueError(
                "it has no turns; name the field with the dialogue in corpus.sources[].messages, and run "
                "the corpus stage"
            )
        messages = self._read_turns(document)
        if all(message.role != ASSISTANT for message in messages):
            raise ValueError(
                "it has no turn of the assistant, so nothing to learn; remove it from its source, or name "
                "the role in dataset.tokenizer.chat.roles"
            )
        return messages

    def _read_turns(self, document: Document) -> list[Message]:
        parts = [Part(USER, document.text)] if document.parts is None else document.parts
        return [self._read_turn(number, part) for number, part in enumerate(parts, start=1)]

    def _read_turn(self, number: int, part: Part) -> Message:
        role = self._roles.get(part.name)
        if role is None:
            raise ValueError(
                f"turn {number} has role {part.name!r}, known are {', '.join(sorted(self._roles))}; "
                f"name it in dataset.tokenizer.chat.roles, such as {{{part.name}: user}}"
            )
        if not part.text.strip() and role not in MAY_BE_EMPTY:
            raise ValueError(f"turn {number}, of the {role}, is empty; remove it from its source")
        return Message(role, part.text)
