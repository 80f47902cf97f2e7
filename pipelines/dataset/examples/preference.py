"""Preference: a prompt with a chosen and a rejected response, as two units in this order. Targets are the
tokens of each response and the token that ends it.

Both are written as prompt_response writes a prompt and its response. They share a row: where both are too
long for it, each gets half of its tokens; where one is short, the other gets what it leaves.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from pipelines.dataset.examples.conversation_units import ConversationTask, Prompt
from pipelines.dataset.examples.example import PART_SEPARATOR, Document, Example, ExampleSettings, Part, Unit
from pipelines.dataset.examples.prompt_response import PROMPT, ROLES, SYSTEM, open_units
from pipelines.dataset.examples.template_writer import ASSISTANT, Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHOSEN, REJECTED = "chosen", "rejected"
RESPONSES = (CHOSEN, REJECTED)
PROMPTS = ((PROMPT,), (SYSTEM, PROMPT))
PAIRS = tuple((*names, *RESPONSES) for names in PROMPTS)
"""Names of the parts of a document. A system part is optional."""


class PreferenceExamples(ConversationTask):
    """The parts of a document are prompt, chosen and rejected, perhaps with a system part before them. Where
    they are too long, the ends of the responses are cut off.

    A pair that cannot tell which response is better is left out: equal responses, also where they are cut to
    the same tokens, and those for which their prompt leaves no room.
    """

    packing_methods: ClassVar[tuple[str, ...]] = ("one_per_document",)

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        self.units, self._max_tokens = open_units(tokenizer, settings), settings.max_tokens

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        problems = [_find_problem(document, PAIRS) for document in documents]
        pairs = [
            _split(document) for document, problem in zip(documents, problems, strict=True) if problem is None
        ]
        halves = [half for pair in pairs for half in (pair.chosen, pair.rejected)]
        examples, known = self.units.build(halves, _read), iter(pairs)
        for document, problem in zip(documents, problems, strict=True):
            if problem is not None:
                yield Example(document.doc_id, [], problem=problem)
            else:
                yield self._join(next(known), next(examples), next(examples))

    def build_prompts(self, documents: Sequence[Document]) -> Iterator[Prompt]:
        """A document without parts is a prompt. Responses are left out, one of them alone, too."""
        asked = [drop_responses(document) for document in documents]
        problems = [_find_problem(document, PROMPTS) for document in asked]
        good = [document for document, problem in zip(asked, problems, strict=True) if problem is None]
        prompts = self.units.build_prompts(good, _read)
        for problem in problems:
            yield next(prompts) if problem is None else Prompt([], problem)

    def drop_empty_answer(self, document: Document) -> Document:
        return document

    def count_answer_bytes(self, document: Document) -> int:
        return sum(len(part.text.encode()) for part in document.parts or () if part.name in RESPONSES)

    def _join(self, pair: "_Pair", chosen: Example, rejected: Example) -> Example:
        doc_id, problem = chosen.doc_id, chosen.problem or rejected.problem
        if problem is not None:
            return Example(doc_id, [], problem=problem)
        whole = [chosen.units[0], _move(rejected.units[0], pair.response_start, pair.shift)]
        room = _find_room([len(unit.input_ids) for unit in whole], self._max_tokens)
        units = [Unit(*(array[:room] for array in unit)) for unit in whole]
        if not all(unit.is_target.any() for unit in units):
            return Example(
                doc_id,
                [],
                problem="its prompt leaves no room for the responses; raise dataset.packing.sequence_length "
                f"(now {self._max_tokens} tokens for both), or shorten the prompt",
            )
        if np.array_equal(units[0].input_ids, units[1].input_ids):
            end = "" if room is None else ", or raise dataset.packing.sequence_length if their ends differ"
            return Example(
                doc_id, [], problem=f"its chosen and rejected are equal; remove it from its source{end}"
            )
        num_cut = sum(
            len(unit.input_ids) - len(kept.input_ids) for unit, kept in zip(whole, units, strict=True)
        )
        num_cut += chosen.num_cut_tokens + rejected.num_cut_tokens
        return Example(doc_id, units, num_cut_tokens=num_cut)


def is_pair(document: Document) -> bool:
    """Whether there are responses to compare."""
    return {part.name for part in document.parts or ()}.issuperset(RESPONSES)


def drop_responses(document: Document) -> Document:
    """The document as a prompt."""
    parts = document.parts or (Part(PROMPT, document.text),)
    return document._replace(parts=tuple(part for part in parts if part.name not in RESPONSES))


class _Pair(NamedTuple):
    """A document as two, each with one response."""

    chosen: Document
    rejected: Document
    response_start: int
    """Character of both texts where the response begins."""
    shift: int
    """Characters by which the rejected response comes later in the text of the document."""


def _split(document: Document) -> _Pair:
    """Each half has the text of its parts, so that its tokens find their characters there: those before the
    response are at the same place in the document. If a source maps a text of its own, they have none."""
    parts = document.parts or ()
    before = [part for part in parts if part.name not in RESPONSES]
    texts = {part.name: part.text for part in parts}
    has_text = document.text == PART_SEPARATOR.join(part.text for part in parts if part.text)

    def take(name: str) -> Document:
        own = (*before, Part(name, texts[name]))
        text = PART_SEPARATOR.join(part.text for part in own if part.text)
        return Document(document.doc_id, text if has_text else "", parts=own)

    start = sum(len(part.text) + len(PART_SEPARATOR) for part in before if part.text)
    return _Pair(take(CHOSEN), take(REJECTED), start, len(texts[CHOSEN]) + len(PART_SEPARATOR))


def _find_problem(document: Document, accepted: Sequence[tuple[str, ...]]) -> str | None:
    """Why the parts of a document are none of the accepted ones; None = they are."""
    parts = document.parts or ()
    names = tuple(part.name for part in parts)
    if names not in accepted:
        return (
            f"it has parts {list(names)}, but task preference needs prompt, chosen and rejected in this "
            "order, and may have system before them; map them in corpus.sources[].parts, such as {prompt: "
            "question, chosen: better, rejected: worse}, and run the corpus stage"
        )
    empty = next((part.name for part in parts if part.name != SYSTEM and not part.text.strip()), None)
    return None if empty is None else f"its {empty} is empty; remove it from its source"


def _read(document: Document) -> list[Message]:
    parts = document.parts or ()
    return [Message(ROLES.get(part.name, ASSISTANT), part.text) for part in parts if part.text]


def _move(unit: Unit, start: int, shift: int) -> Unit:
    """The unit with the characters from `start` on `shift` places later."""
    return unit._replace(
        char_start=np.where(unit.char_start >= start, unit.char_start + shift, unit.char_start),
        char_end=np.where(unit.char_end > start, unit.char_end + shift, unit.char_end),
    )


def _find_room(sizes: Sequence[int], max_tokens: int | None) -> int | None:
    """Most tokens of each of two units that share max_tokens: the same for both, and as many as possible."""
    return None if max_tokens is None else max(max_tokens // 2, max_tokens - min(sizes))
