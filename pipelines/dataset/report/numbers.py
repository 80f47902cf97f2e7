"""What a page counts, as JSON for programs: no text of a document and no doc_id is in it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.dataset.report.content import FULL, Content, Documents, Sequences, sum_by
from pipelines.report import format_numbers, name_version, parse_numbers

FORMAT = 1
"""Of the JSON. Raise it when a key that is read here means something else, or is new."""
_AGAIN = "delete them, and the stage dataset writes the report again"


class Numbers(NamedTuple):
    """What the pictures of a run show."""

    documents: Mapping[int, Documents]
    """By bits of the number of tokens of a document, before packing."""
    sequences: Mapping[int, Sequences]
    """By bits of the number of tokens of a sequence."""
    sources: Mapping[str, Documents]


def write_numbers(content: Content) -> str:
    """JSON, one line per group. Equal content gives equal bytes."""
    splits = [
        {
            "split": split,
            **_name_sequences(content.count(split)),
            "places": content.count_places(split),
            **_name_documents(content.count_documents(split), "document_tokens"),
        }
        for split in content.splits
    ]
    before = sum_by(((split, bits), own) for (split, _, bits), own in content.documents.items())
    sources = sum_by(((split, source), own) for (split, source, _), own in content.documents.items())
    value: dict[str, Any] = {
        "format": FORMAT,
        **name_version(content.tables[0]),
        "task": content.task,
        "sequence_length": content.sequence_length,
        "tokenizer": content.tokenizer,
        "splits": splits,
        "documents_by_length": [
            {"split": split, **_name_bits(bits), **_name_documents(own)}
            for (split, bits), own in sorted(before.items())
        ],
        "sequences_by_length": [
            {"split": split, **_name_bits(bits), **_name_sequences(own)}
            for (split, bits), own in sorted(content.lengths.items())
        ],
        "sequences_by_fill": [
            {"split": split, "min_filled_fraction": tenths / FULL, "sequences": number}
            for (split, tenths), number in sorted(content.fills.items())
        ],
        "sources": [
            {"split": split, "source": source, **_name_documents(own)}
            for (split, source), own in sorted(sources.items())
        ],
    }
    return format_numbers(value)


def _name_bits(bits: int) -> dict[str, int]:
    return {"min_tokens": 2 ** (bits - 1), "max_tokens": 2**bits - 1}


def _name_sequences(own: Sequences) -> dict[str, int]:
    return {
        "sequences": own.sequences,
        "tokens": own.tokens,
        "targets": own.targets,
        "continued_segments": own.continued,
    }


def _name_documents(own: Documents, tokens: str = "tokens") -> dict[str, int]:
    return {"documents": own.documents, tokens: own.tokens, "segments": own.segments, "cut_tokens": own.cut}


def are_settled(numbers: str) -> bool:
    """Whether a report of today's code would say the same of the same table."""
    return parse_numbers(numbers).get("format") == FORMAT


def read_numbers(text: str) -> Numbers:
    """What `write_numbers` wrote. Raises ValueError if it has another format, or was changed."""
    value = parse_numbers(text)
    if value.get("format") != FORMAT:
        raise ValueError(f"numbers of a report have format {FORMAT}, these {value.get('format')!r}; {_AGAIN}")
    try:
        return Numbers(
            documents=sum_by(
                (_read_bits(each), _read_documents(each)) for each in value["documents_by_length"]
            ),
            sequences=sum_by(
                (_read_bits(each), _read_sequences(each)) for each in value["sequences_by_length"]
            ),
            sources=sum_by((str(each["source"]), _read_documents(each)) for each in value["sources"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"numbers of a report were changed after they were written ({error!r}); {_AGAIN}"
        ) from error


def _read_bits(group: Mapping[str, Any]) -> int:
    return int(group["max_tokens"]).bit_length()


def _read_documents(group: Mapping[str, Any]) -> Documents:
    return Documents(*(int(group[name]) for name in ("documents", "tokens", "segments", "cut_tokens")))


def _read_sequences(group: Mapping[str, Any]) -> Sequences:
    names = ("sequences", "tokens", "targets", "continued_segments")
    return Sequences(*(int(group[name]) for name in names))
