"""Record values -> columns of a document, in the same way for every format.

- text: a string. Without a mapped text field it is the texts of the parts, joined by a blank line; empty
  parts are left out.
- label, key, split and metadata: a string, number, bool or date, as text. A missing label, split or metadata
  value is null.
- labels, instead of label: an array of strings, numbers and bools, or text, see `labels.py`; the column holds
  the set as JSON.
- parts: named texts in order, from `Source.parts` or from the turns of the dialogue in `Source.messages`. A
  turn is a role and a text: one with more, such as tool_calls, is refused, so that nothing of it is lost.

Text, label and the texts of parts are normalised; text and parts are cleaned as the source says. A value of
another kind raises MalformedError: the record goes to quarantine.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from pipelines.corpus.clean import Cleaner, normalise
from pipelines.corpus.paragraphs.edit import Cut
from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.jsonl import parse_json
from pipelines.corpus.readers.labels import read_labels
from pipelines.corpus.readers.values import check_strings, describe_kind
from pipelines.corpus.source import SPLITS, Source

Parts = list[tuple[str, str]]
_ROLE_NAMES = (("role", "content"), ("from", "value"))
"""Names of a turn's role and text: OpenAI's, and ShareGPT's."""
_EMPTY: tuple[object, ...] = (None, "", [], {})


class Columns(NamedTuple):
    """The columns of a document that come from its record; None = null."""

    key: str | None
    text: str
    label: str | None
    split: str | None
    parts: Parts | None
    metadata: dict[str, str] | None
    edits: dict[str, int] | None
    """Cleaning steps that changed the text or a part, and placeholders by kind; None = no change."""
    cut: Cut | None = None
    """The paragraphs that the text has lost; None = none."""


class TextMapper(Protocol):
    """What a reader needs of a mapper."""

    def map_values(self, values: Mapping[str, object]) -> Columns: ...


class Mapper:
    """The mapping of one source, prepared once because it runs for every record."""

    def __init__(self, source: Source) -> None:
        # A format whose records all have the same fields needs no mapping: text is the text, the rest
        # metadata.
        fixed = source.reader.field_names or ()
        fields = source.fields or ({"text": "text"} if fixed else {})
        given = {name: name for name in fixed if name != "text"}
        metadata = source.metadata or {**given, **source.reader.metadata}
        self._text, self._key = fields.get("text"), fields.get("key")
        self._label, self._split = fields.get("label"), fields.get("split")
        self._labels, self._separator = fields.get("labels"), source.label_separator
        self._cleaner = Cleaner(source.cleaning)
        self._parts, self._messages = tuple(source.parts.items()), source.messages
        self._ignored = frozenset(source.ignored_turn_fields)
        self._metadata = tuple((key, name, f"metadata {key}") for key, name in metadata.items())

    def map_values(self, values: Mapping[str, object]) -> Columns:
        """The columns of a record. Raises MalformedError with the reason, as 'column: detail'."""
        self._cleaner.take_counts()  # those of a record that broke half-way
        parts, clean = None, self._cleaner.clean
        if self._messages:
            turns = enumerate(_read_turns(values.get(self._messages), self._messages), start=1)
            read = (_read_turn(turn, number, self._ignored) for number, turn in turns)
            parts = [(role, clean(text)) for role, text in read]
        elif self._parts:
            parts = _read_parts(values, self._parts, clean)
        if self._text:
            text = _read_string(values, "text", self._text)
        else:
            text = "\n\n".join(part for _, part in parts or () if part)
        key = _read_key(values, self._key) if self._key else None
        label = _read_scalar(values, "label", self._label) if self._label else None
        split = _read_scalar(values, "split", self._split) if self._split else None
        if split and split not in SPLITS:
            raise MalformedError(f"split: {split[:40]!r} is not one of {', '.join(SPLITS)}")
        metadata = self._read_metadata(values) if self._metadata else None
        text, label = clean(text), (label and normalise(label)) or None
        if self._labels:
            label = read_labels(values.get(self._labels), self._labels, self._separator)
        return Columns(key, text, label, split, parts, metadata, self._cleaner.take_counts() or None)

    def _read_metadata(self, values: Mapping[str, object]) -> dict[str, str] | None:
        read = ((key, _read_scalar(values, column, name)) for key, name, column in self._metadata)
        return {key: value for key, value in read if value is not None} or None


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
    return value


def _read_scalar(values: Mapping[str, object], column: str, name: str) -> str | None:
    """A scalar as text; None for null and for an empty string."""
    value = values.get(name)
    if type(value) is str:
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is not None and not isinstance(value, str):
        raise MalformedError(
            f"{column}: field {name!r} is {describe_kind(value)}, not a string, number, bool or date"
        )
    return str(value) if value else None


def _read_parts(
    values: Mapping[str, object], names: tuple[tuple[str, str], ...], clean: Callable[[str], str]
) -> Parts:
    parts: Parts = []
    for part, name in names:
        value = values.get(name)
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if type(text) is not str:
                inside = "an array with " if texts is value else ""
                raise MalformedError(
                    f"part {part}: field {name!r} is {inside}{describe_kind(text)}, not a string"
                )
            parts.append((part, clean(text)))
    return parts


def _read_turns(value: object, name: str) -> list[object]:
    """The turns of a dialogue, at least one."""
    if type(value) is str:
        try:
            value = parse_json(value)
        except MalformedError as error:
            raise MalformedError(f"messages: field {name!r}: {error}") from None
        check_strings(value, name)
    if not isinstance(value, list):
        raise MalformedError(f"messages: field {name!r} is {describe_kind(value)}, not an array of turns")
    if not value:
        raise MalformedError(f"messages: field {name!r} is an empty array")
    return value


def _read_turn(turn: object, number: int, ignored: frozenset[str]) -> tuple[str, str]:
    """Role as written, and text. What the turn has besides must be empty or `ignored`."""
    if not isinstance(turn, dict):
        raise MalformedError(f"messages: turn {number} is {describe_kind(turn)}, not an object")
    role_name, text_name = next(
        (names for names in _ROLE_NAMES if turn.get(names[0]) is not None), _ROLE_NAMES[0]
    )
    role, text = turn.get(role_name), turn.get(text_name)
    if type(role) is not str or not role:
        problem = "empty" if role == "" else describe_kind(role)
        raise MalformedError(f"messages: {role_name} of turn {number} is {problem}, not a name")
    for field, value in turn.items():
        if field not in (role_name, text_name) and field not in ignored and value not in _EMPTY:
            raise MalformedError(
                f"messages: turn {number} has {field[:40]}, {describe_kind(value)}, which would be lost; "
                "write it in its text, or name it in ignored_turn_fields of the source"
            )
    if type(text) is not str:
        raise MalformedError(f"messages: {text_name} of turn {number} is {describe_kind(text)}, not a string")
    return role, text
