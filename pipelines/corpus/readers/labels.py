"""The labels of a record, any number of them -> the column `label` of its document (pipelines/label_sets.py).

| value of the field | with a separator | without |
|---|---|---|
| null or missing | null: not known | null: not known |
| array | its elements | its elements |
| text | its pieces, empty ones left out | a JSON array, else quarantine |
| empty text | no label | no label |

An array without elements is no label either, which is legal. Names are normalised as texts are, and a name
that comes twice counts once. Which names there are is fixed by the dataset stage, over all kept documents.
"""

from pipelines.corpus.clean import normalise
from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.jsonl import parse_json
from pipelines.corpus.readers.values import check_strings, describe_kind
from pipelines.label_sets import write_label_set


def read_labels(value: object, field: str, separator: str | None) -> str | None:
    """The set of labels as a string; None = not known. Raises MalformedError for a value of another kind."""
    if value is None:
        return None
    if isinstance(value, str) and separator is not None:
        pieces = (normalise(piece) for piece in value.split(separator))
        return write_label_set(piece for piece in pieces if piece)
    if type(value) is str:
        value = _parse(value, field)
    if not isinstance(value, list):
        raise MalformedError(f"labels: field {field!r} is {describe_kind(value)}, not an array of labels")
    return write_label_set(_read_name(name, field) for name in value)


def _parse(text: str, field: str) -> object:
    if not text.strip():
        return []
    try:
        value = parse_json(text)
    except MalformedError:
        raise MalformedError(
            f"labels: field {field!r} is text, but no JSON array, and the source has no label_separator"
        ) from None
    check_strings(value, field)
    return value


def _read_name(value: object, field: str) -> str:
    name = ("true" if value else "false") if isinstance(value, bool) else value
    name = normalise(name) if isinstance(name, str) else None
    if not name:
        problem = "an empty string" if isinstance(value, str) else describe_kind(value)
        raise MalformedError(f"labels: field {field!r} is an array with {problem}, not a label")
    return name
