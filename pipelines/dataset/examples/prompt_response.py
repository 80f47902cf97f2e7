"""Prompt and response: targets are the response and the token that ends it.

With the chat template of the tokenizer if there is one: prompt and response are turns of user and assistant.
Otherwise an empty line ends a system part, the response follows the prompt directly, and the end-of-text
token follows the response.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from pipelines.dataset.examples.conversation_units import ConversationUnits
from pipelines.dataset.examples.encode import find_frame
from pipelines.dataset.examples.example import Document, Example, ExampleSettings
from pipelines.dataset.examples.template_writer import ASSISTANT, Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROLES = {"system": "system", "prompt": "user", "response": ASSISTANT}
"""Name of a part -> role of the turn. A system part is optional."""
PLAIN = (
    "{{ opening }}{% for message in messages %}{{ message.content }}{{ '\n\n' if message.role == 'system' }}"
    "{% endfor %}{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
"""The template where there is none. `opening`: what the tokenizer puts before every text, such as BOS."""


class PromptResponseExamples:
    """The parts of a document are prompt and response, perhaps with a system part before them. Where they are
    too long, the end of the response is cut off."""

    columns: ClassVar[tuple[str, ...]] = ("text", "parts")
    packing_methods: ClassVar[tuple[str, ...]] = ("one_per_document", "concatenate", "best_fit")
    has_labels: ClassVar[bool] = False
    needs_end_token: ClassVar[bool] = True
    needs_mask_token: ClassVar[bool] = False
    is_chat: ClassVar[bool] = True

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        opening, _ = find_frame(tokenizer)
        written = "".join(str(tokenizer.id_to_token(number)) for number in opening)
        self._units = ConversationUnits(tokenizer, settings, settings.chat.template or PLAIN, opening=written)

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        yield from self._units.build(documents, [_read(document) for document in documents])


def _read(document: Document) -> list[Message]:
    names = [part.name for part in document.parts or ()]
    if names not in (["prompt", "response"], ["system", "prompt", "response"]):
        raise ValueError(
            f"document {document.doc_id} has parts {names}, but task prompt_response needs prompt and "
            "response, and may have system before them; map them in corpus.sources[].parts, such as {prompt: "
            "question, response: answer}, and run the corpus stage"
        )
    assert document.parts is not None, "it has names"
    for part in document.parts[-2:]:
        if not part.text.strip():
            raise ValueError(
                f"document {document.doc_id}: its {part.name} is empty; remove it from its source"
            )
    return [Message(ROLES[part.name], part.text) for part in document.parts if part.text]
