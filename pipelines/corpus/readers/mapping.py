"""Record values -> columns of a document, in the same way for every format.

- text: a string. Without a mapped text field it is the texts of the parts, joined by a blank line; empty
  parts are left out.
- label, key, split and metadata: a string, number, bool or date, as text. A missing label, split or metadata
  value is null.
- parts: named texts in order, from `Source.parts` or from the turns of the dialogue in `Source.messages`.

Text, label and the texts of parts are normalised. A value of another kind raises MalformedError: the record
goes to quarantine.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pipelines.corpus.clean import normalise
from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.jsonl import parse_json
from pipelines.corpus.readers.values import describe_kind
from pipelines.corpus.source import SPLITS, Source

Parts = list[tuple[str, str]]
_ROLE_NAMES = (("role", "content"), ("from", "value"))
"""Names of a turn's role and text: OpenAI's, and ShareGPT's."""


class Columns(NamedTuple):
    """The columns of a document that come from its record; None = null."""

    key: str | None
    text: str
    label: str | None
    split: str | None
    parts: Parts | None
    metadata: dict[str, str] | None


def map_values(values: Mapping[str, object], source: Source) -> Columns:
    """The columns. Raises MalformedError with the reason, as 'column: detail'."""
    parts = _read_parts(values, source)
    fields = source.fields or ({"text": "text"} if source.reader.field_names else {})
    if "text" in fields:
        text = normalise(_read_string(values, "text", fields["text"]))
    else:
        text = "\n\n".join(part for _, part in parts or () if part)
    key = _read_key(values, fields["key"]) if "key" in fields else None
    label = _read_scalar(values, "label", fields["label"]) if "label" in fields else None
    split = _read_scalar(values, "split", fields["split"]) if "split" in fields else None
    if split and split not in SPLITS:
        raise MalformedError(f"split: {split[:40]!r} is not one of {', '.join(SPLITS)}")
    label = normalise(label) or None if label else None
    return Columns(key, text, label, split, parts, _read_metadata(values, source))


def _read_key(values: Mapping[str, object], name: str) -> str:
    key = _read_scalar(values, "key", name)
    if key is None:
        problem = "empty" if values.get(name) == "" else describe_kind(values.get(name))
        raise MalformedError(f"key: field {name!r} is {problem}, but every record needs its own key")
    return key


def _read_string(values: Mapping[str, object], column: str, name: str) -> str:
    value = values.get(name)
    if type(value) is not str:
        raise MalformedError(f"{column}: field {name!r} is {describe_kind(value)}, not a string")
    return _check_text(value, column)


def _read_scalar(values: Mapping[str, object], column: str, name: str) -> str | None:
    """A scalar as text; None for null and for an empty string."""
    value = values.get(name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is not None and not isinstance(value, str):
        raise MalformedError(
            f"{column}: field {name!r} is {describe_kind(value)}, not a string, number, bool or date"
        )
    return _check_text(str(value), column) if value else None


def _read_metadata(values: Mapping[str, object], source: Source) -> dict[str, str] | None:
    names = source.metadata or {name: name for name in source.reader.field_names or () if name != "text"}
    read = {key: _read_scalar(values, f"metadata {key}", name) for key, name in names.items()}
    return {key: value for key, value in read.items() if value is not None} or None


def _read_parts(values: Mapping[str, object], source: Source) -> Parts | None:
    if source.messages:
        return _read_turns(values.get(source.messages), source.messages)
    if not source.parts:
        return None
    parts: Parts = []
    for part, name in source.parts.items():
        value = values.get(name)
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if type(text) is not str:
                inside = "an array with " if texts is value else ""
                raise MalformedError(
                    f"part {part}: field {name!r} is {inside}{describe_kind(text)}, not a string"
                )
            parts.append((part, normalise(_check_text(text, f"part {part}"))))
    return parts


def _read_turns(value: object, name: str) -> Parts:
    """The turns of a dialogue, in order, named by role as written."""
    if type(value) is str:
        value = parse_json(value)
    if not isinstance(value, list):
        raise MalformedError(f"messages: field {name!r} is {describe_kind(value)}, not an array of turns")
    if not value:
        raise MalformedError(f"messages: field {name!r} is an empty array")
    return [_read_turn(turn, number) for number, turn in enumerate(value, start=1)]


def _read_turn(turn: object, number: int) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise MalformedError(f"messages: turn {number} is {describe_kind(turn)}, not an object")
    role_name, text_name = next(
        (names for names in _ROLE_NAMES if turn.get(names[0]) is not None), _ROLE_NAMES[0]
    )
    role, text = turn.get(role_name), turn.get(text_name)
    if type(role) is not str or not role:
        problem = "empty" if role == "" else describe_kind(role)
        raise MalformedError(f"messages: {role_name} of turn {number} is {problem}, not a name")
    if type(text) is not str:
        raise MalformedError(f"messages: {text_name} of turn {number} is {describe_kind(text)}, not a string")
    at = f"messages turn {number}"
    return _check_text(role, at), normalise(_check_text(text, at))


def _check_text(value: str, column: str) -> str:
    r"""The value. JSON escapes can name what text never contains (\u0000) and what UTF-8 cannot hold (half a
    surrogate pair)."""
    if "\0" in value:
        raise MalformedError(f"NUL: {column} contains the character U+0000")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MalformedError(f"lone surrogate: U+{ord(value[error.start]):04X} in {column}") from None
    return value
