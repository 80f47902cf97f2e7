"""Prompt and response: targets are the response and the token that ends it.

With the chat template of the tokenizer if there is one: prompt and response are turns of user and assistant.
Otherwise an empty line ends a system part, the response follows the prompt directly, and the end-of-text
token follows the response.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipelines.dataset.examples.conversation_units import (
    ConversationTask,
    ConversationUnits,
    Prompt,
    drop_empty_answer,
)
from pipelines.dataset.examples.encode import find_frame
from pipelines.dataset.examples.example import Document, Example, ExampleSettings, Part
from pipelines.dataset.examples.template_writer import ASSISTANT, Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SYSTEM, PROMPT, RESPONSE = "system", "prompt", "response"
ROLES = {SYSTEM: "system", PROMPT: "user", RESPONSE: ASSISTANT}
"""Name of a part -> role of the turn. A system part is optional."""
PAIRS = ((PROMPT, RESPONSE), (SYSTEM, PROMPT, RESPONSE))
PROMPTS = ((PROMPT,), (SYSTEM, PROMPT), *PAIRS)
"""Parts of which a response can be written."""
PLAIN = (
    "{{ opening }}{% for message in messages %}{{ message.content }}{{ '\n\n' if message.role == 'system' }}"
    "{% endfor %}{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
"""The template where there is none. `opening`: what the tokenizer puts before every text, such as BOS."""


class PromptResponseExamples(ConversationTask):
    """The parts of a document are prompt and response, perhaps with a system part before them. Where they are
    too long, the end of the response is cut off."""

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        self.units = open_units(tokenizer, settings)

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        yield from self.units.build(documents, lambda document: _read(document.parts, PAIRS))

    def build_prompts(self, documents: Sequence[Document]) -> Iterator[Prompt]:
        """A document without parts is a prompt."""
        yield from self.units.build_prompts(
            documents, lambda document: _read(document.parts or (Part(PROMPT, document.text),), PROMPTS)
        )

    def drop_empty_answer(self, document: Document) -> Document:
        return drop_empty_answer(document, lambda part: part.name == RESPONSE)

    def count_answer_bytes(self, document: Document) -> int:
        return sum(len(part.text.encode()) for part in document.parts or () if part.name == RESPONSE)


def open_units(tokenizer: "Tokenizer", settings: ExampleSettings) -> ConversationUnits:
    """What writes prompts and responses: the template of the tokenizer, or PLAIN."""
    opening, _ = find_frame(tokenizer)
    written = "".join(str(tokenizer.id_to_token(number)) for number in opening)
    return ConversationUnits(tokenizer, settings, settings.chat.template or PLAIN, opening=written)


def _read(parts: Sequence[Part] | None, accepted: Sequence[tuple[str, ...]]) -> list[Message]:
    names = tuple(part.name for part in parts or ())
    if names not in accepted:
        raise ValueError(
            f"it has parts {list(names)}, but task prompt_response needs prompt and response, and may have "
            "system before them; map them in corpus.sources[].parts, such as {prompt: question, response: "
            "answer}, and run the corpus stage"
        )
    assert parts is not None, "it has names"
    for part in parts:
        if part.name != SYSTEM and not part.text.strip():
            raise ValueError(f"its {part.name} is empty; remove it from its source")
    return [Message(ROLES[part.name], part.text) for part in parts if part.text]
