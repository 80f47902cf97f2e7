"""Retrieval: a query, the text that answers it, and any number of texts that do not.

Each text is a unit of its own, so it is a segment of the row: the query, then the positive, then the
negatives. A model embeds one text at a time, so sequence_length bounds each text and not the row, and no text
loses tokens because its neighbours are long.

No token is a target. The loss counts one term per document: which of the candidates answers the query. The
positive is the first candidate, so its number, and with it the label of every row, is 0.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from pipelines.dataset.examples.encode import EncodedText, TextEncoder
from pipelines.dataset.examples.example import PART_SEPARATOR, Document, Example, ExampleSettings, Part, Unit

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QUERY, POSITIVE, NEGATIVE = "query", "positive", "negative"
"""Names of the parts."""
FIRST_CANDIDATE = 0


class RetrievalTexts(NamedTuple):
    """The texts of a document; null or empty where it has none."""

    query: str | None
    positive: str | None
    negatives: tuple[str, ...]


class RetrievalExamples:
    """The parts of a document are one query, one positive, and negatives, in any order. The end of a text
    that is too long is cut off."""

    columns: ClassVar[tuple[str, ...]] = ("text", "parts")
    packing_methods: ClassVar[tuple[str, ...]] = ("one_per_document",)
    has_labels: ClassVar[bool] = False
    has_label_sets: ClassVar[bool] = False
    needs_end_token: ClassVar[bool] = False
    needs_mask_token: ClassVar[bool] = False
    is_chat: ClassVar[bool] = False

    def __init__(self, tokenizer: "Tokenizer", settings: ExampleSettings) -> None:
        self._encoder = TextEncoder(tokenizer, max_tokens=settings.max_tokens)

    def build(self, documents: Sequence[Document]) -> Iterator[Example]:
        problems = [_find_problem(document) for document in documents]
        usable = [each for each, problem in zip(documents, problems, strict=True) if problem is None]
        parts = [_order_parts(document) for document in usable]
        # One call for the texts of all documents; none if there are none.
        texts = [part.text for each in parts for _, part in each]
        encoded = self._encoder.encode(texts) if texts else iter(())
        placed = iter(parts)
        for document, problem in zip(documents, problems, strict=True):
            if problem is not None:
                yield Example(document.doc_id, [], problem=problem)
                continue
            own = next(placed)
            yield _make_example(document, own, [next(encoded) for _ in own])


def read_texts(document: Document) -> RetrievalTexts:
    """The texts of a document, of which any may be missing; one without parts is a positive, that is, a text
    to be found.

    Raises ValueError for other parts, or for several queries or positives.
    """
    if document.parts is None:
        return RetrievalTexts(None, document.text, ())
    by_name: dict[str, list[str]] = {QUERY: [], POSITIVE: [], NEGATIVE: []}
    for part in document.parts:
        if part.name not in by_name:
            raise ValueError(
                f"it has a part {part.name!r}, but task retrieval knows {', '.join(by_name)}; map them in "
                "corpus.sources[].parts, such as {query: question, positive: answer, negative: others}, and "
                "run the corpus stage"
            )
        by_name[part.name].append(part.text)
    for name in (QUERY, POSITIVE):
        if len(by_name[name]) > 1:
            raise ValueError(
                f"it has {len(by_name[name])} parts {name!r}, but a document holds one; write a record for "
                f"each {name} in its source"
            )
    query, positive = (next(iter(by_name[name]), None) for name in (QUERY, POSITIVE))
    return RetrievalTexts(query, positive, tuple(by_name[NEGATIVE]))


def _find_problem(document: Document) -> str | None:
    """Why nothing can be learned from the document; None = something can."""
    try:
        texts = read_texts(document)
    except ValueError as error:
        return str(error)
    for name, text in ((QUERY, texts.query), (POSITIVE, texts.positive)):
        if text is None:
            return (
                f"it has no part {name!r}, but task retrieval needs query and positive; map them in "
                "corpus.sources[].parts, such as {query: question, positive: answer}, and run the corpus "
                "stage"
            )
        if not text.strip():
            return f"its {name} is empty; remove it from its source"
    if not all(text.strip() for text in texts.negatives):
        return "one of its negatives is empty; remove it from its source"
    return None


def _order_parts(document: Document) -> list[tuple[int, Part]]:
    """(first character in the document's text, part): query, positive, negatives. The place is -1 if the
    source maps a text of its own: then the parts are not in it."""
    parts, start, placed = document.parts or (), 0, []
    is_joined = document.text == PART_SEPARATOR.join(part.text for part in parts)
    for part in parts:
        placed.append((start if is_joined else -1, part))
        start += len(part.text) + len(PART_SEPARATOR)
    order = (QUERY, POSITIVE, NEGATIVE)
    return sorted(placed, key=lambda each: order.index(each[1].name))


def _make_example(
    document: Document, parts: Sequence[tuple[int, Part]], encoded: Sequence[EncodedText]
) -> Example:
    for (_, part), text in zip(parts, encoded, strict=True):
        if not len(text.input_ids):
            problem = f"the tokenizer has no token for its {part.name}; remove it from its source"
            return Example(document.doc_id, [], problem=problem)
    units = [_make_unit(start, text) for (start, _), text in zip(parts, encoded, strict=True)]
    num_cut_tokens = sum(text.num_cut_tokens for text in encoded)
    return Example(document.doc_id, units, FIRST_CANDIDATE, num_cut_tokens)


def _make_unit(start: int, text: EncodedText) -> Unit:
    """The unit of a text that begins at character `start` of the document's text."""
    is_text = (text.char_start >= 0) & (start >= 0)
    return Unit(
        input_ids=text.input_ids,
        is_target=np.zeros(len(text.input_ids), dtype=bool),
        char_start=np.where(is_text, text.char_start + start, -1).astype(np.int32),
        char_end=np.where(is_text, text.char_end + start, -1).astype(np.int32),
        num_bytes=text.num_bytes,
    )
