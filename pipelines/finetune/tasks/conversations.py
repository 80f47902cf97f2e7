"""Conversations as a language model reads them: as the dataset stage writes them, with the template of the
model. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from tokenizers import Tokenizer

from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.examples.conversation_units import ConversationBuilder, Prompt
from pipelines.dataset.examples.example import Document, Example, ExampleSettings, Unit
from pipelines.dataset.examples.table import load_builder
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.tasks.reading import Window

MAX_NEW_TOKENS = 256
"""Most tokens of an answer that its prompt has room for. Turns end themselves, so it bounds those of models
that have not learned to."""

NOTHING = Example("", [])
"""Of a conversation without a turn of the assistant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversationReading:
    """One conversation: it is scored by the turns of the assistant. The answer continues what comes before a
    turn of the assistant that ends it."""

    unit: Unit | None
    """None = there is no turn of the assistant, or it cannot be read."""
    prompt_ids: Sequence[int]
    num_bytes: int
    problem: str | None

    def prompt(self, max_tokens: int) -> list[int]:
        """The last tokens of the prompt, which end where the answer begins."""
        return list(self.prompt_ids[-max_tokens:])

    def windows(self, max_tokens: int) -> Iterator[Window]:
        if self.unit is None:
            return
        ids, is_target = self.unit.input_ids, self.unit.is_target
        for start in range(0, len(ids) - 1, max_tokens - 1):
            stop = start + max_tokens
            if is_target[start + 1 : stop].any():
                yield Window(ids[start:stop].tolist(), is_target[start:stop])


class ConversationReader:
    """Reads the parts of documents; the text of one without parts is what the user says."""

    def __init__(self, tokenizer: Tokenizer, spec: ModelSpec) -> None:
        """Raises ValueError if the template cannot be read. It runs in its sandbox, here and later."""
        settings = ExampleSettings(end_token_id=spec.end_token_id, chat=spec.chat or ChatFormat())
        self._builder = cast(ConversationBuilder, load_builder(spec.task)(tokenizer, settings))
        self.stop_ids = self._builder.units.find_stop_ids()

    def read(self, documents: Sequence[Document], *, with_prompts: bool) -> list[ConversationReading]:
        documents = [self._builder.drop_empty_answer(document) for document in documents]
        num_bytes = [self._builder.count_answer_bytes(document) for document in documents]
        answered = [each for each, size in zip(documents, num_bytes, strict=True) if size]
        examples, prompts = self._builder.build(answered), self._builder.build_prompts(documents)
        readings = []
        for size in num_bytes:
            example = next(examples) if size else NOTHING
            prompt = next(prompts) if with_prompts else Prompt([])
            unit = example.units[0] if example.units else None
            readings.append(
                ConversationReading(
                    unit=unit,
                    prompt_ids=prompt.input_ids,
                    num_bytes=size if unit is None else int(unit.num_bytes[unit.is_target].sum()),
                    problem=example.problem or prompt.problem,
                )
            )
        return readings

    def decode(self, sequences: Sequence[list[int]]) -> list[str]:
        decoded = self._builder.units.tokenizer.decode_batch(sequences, skip_special_tokens=True)
        return [str(text) for text in decoded]
