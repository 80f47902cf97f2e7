"""Chat: the turns of a dialogue as the tokenizer's chat template writes them; targets are the assistant's."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from pipelines.dataset.chat_rules import ROLES
from pipelines.dataset.examples.conversation_units import ConversationUnits
from pipelines.dataset.examples.example import Document, Example, ExampleSettings, Part
from pipelines.dataset.examples.template_writer import ASSISTANT, Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAY_BE_EMPTY = ("system", "tool")
"""A tool may return nothing."""


class ChatExamples:
    """The parts of a document are its turns, named by role (corpus.sources[].messages). A turn's text never
    becomes a special token. Where a conversation is too long, its end is cut off."""

    columns: ClassVar[tuple[str, ...]] = ("text", "parts")
    packing_methods: ClassVar[tuple[str, ...]] = ("one_per_document", "concatenate", "best_fit")
    has_labels: ClassVar[bool] = False
    needs_end_token: ClassVar[bool] = True
    needs_mask_token: ClassVar[bool] = False
    is_chat: ClassVar[bool] = True

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        if settings.chat.template is None:
            raise ValueError(
                "task chat needs a chat template, and the tokenizer has none; set "
                "dataset.tokenizer.chat.template to a Jinja file, or dataset.tokenizer.base to a chat model"
            )
        self._roles = {**{role: role for role in ROLES}, **dict(settings.chat.roles)}
        self._units = ConversationUnits(tokenizer, settings, settings.chat.template)

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        conversations = [self._read(document) for document in documents]
        yield from self._units.build(documents, conversations)

    def _read(self, document: Document) -> list[Message]:
        """The turns. Raises ValueError if they are no conversation to learn from."""
        at = f"document {document.doc_id}"
        if not document.parts:
            raise ValueError(
                f"{at} has no turns; name the field with the dialogue in corpus.sources[].messages, and run "
                "the corpus stage"
            )
        messages = [self._read_turn(at, number, part) for number, part in enumerate(document.parts, start=1)]
        if all(message.role != ASSISTANT for message in messages):
            raise ValueError(
                f"{at} has no turn of the assistant, so nothing to learn; remove it from its source, or name "
                "the role in dataset.tokenizer.chat.roles"
            )
        return messages

    def _read_turn(self, at: str, number: int, part: Part) -> Message:
        role = self._roles.get(part.name)
        if role is None:
            raise ValueError(
                f"{at}: turn {number} has role {part.name!r}, known are {', '.join(sorted(self._roles))}; "
                f"name it in dataset.tokenizer.chat.roles, such as {{{part.name}: user}}"
            )
        if not part.text.strip() and role not in MAY_BE_EMPTY:
            raise ValueError(f"{at}: turn {number}, of the {role}, is empty; remove it from its source")
        return Message(role, part.text)
