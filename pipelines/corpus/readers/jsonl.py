"""JSON Lines: one object a line (RFC 8259, UTF-8). Can be read in byte slices, since no line break stands inside an object.

Lines of white space are no records. Of a name that an object repeats, the last value stands, as in Python and JavaScript.
A number stays as it is written and becomes text, so the keys 1 and "1" are one key.
"""

import json
from collections.abc import Iterator

from pipelines.corpus.readers.records import (
    BOM,
    Lines,
    MalformedError,
    Record,
    checked,
    decode,
    too_long,
    without_line_end,
)
from pipelines.corpus.source import Source


class _Number(str):
    """A number as it is written: an id of 20 digits or a label 1.0 must not change on the way."""


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_refused)


def records(lines: Lines, source: Source) -> Iterator[Record]:
    """The objects of a file or of a slice of it."""
    max_record_bytes = source.max_record_bytes
    limit = max_record_bytes + len("\r\n")
    while not lines.exhausted and (data := lines.read(limit)):
        ended = data[-1:] == b"\n"
        offset, line, num_bytes = lines.offset - len(data), lines.line - ended, len(data)
        content = without_line_end(data)
        if len(content) > max_record_bytes:
            num_bytes += 0 if ended else lines.skip_line()
            yield Record(offset, line, num_bytes, data, None, too_long(max_record_bytes))
            continue
        if offset == 0:
            content = content.removeprefix(BOM)
        if content.isspace() or not content:
            continue
        try:
            yield Record(offset, line, num_bytes, data, _fields(content, source.fields), None)
        except MalformedError as error:
            yield Record(offset, line, num_bytes, data, None, str(error))


def _fields(content: bytes, names: dict[str, str]) -> dict[str, str]:
    text = decode(content)
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise MalformedError("invalid JSON: nested too deeply") from None
    except ValueError as error:
        raise MalformedError(f"invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedError(f"not an object: the line holds {_kind(value)}")
    fields = {column: _value(value.get(name), column, name) for column, name in names.items()}
    if "\\u" in text:
        _check_escapes(fields)
    return checked(fields)


def _value(value: object, column: str, name: str) -> str:
    if type(value) is str:
        return value
    if column == "text" or (column == "key" and value is None):
        raise MalformedError(f"{column}: field {name!r} is {_kind(value)}, not a string")
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Number):
        return str(value)
    raise MalformedError(f"{column}: field {name!r} is {_kind(value)}, not a string, number or bool")


def _check_escapes(fields: dict[str, str]) -> None:
    r"""An escape can name what UTF-8 cannot hold (half of a surrogate pair) and what text never holds (\u0000)."""
    for column, value in fields.items():
        if "\0" in value:
            raise MalformedError(f"NUL: {column} holds the character U+0000")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MalformedError(f"lone surrogate: U+{ord(value[error.start]):04X} in {column}") from None


def _kind(value: object) -> str:
    if value is None:
        return "null or missing"
    if isinstance(value, _Number):
        return "a number"
    return {str: "a string", bool: "a bool", list: "an array", dict: "an object"}[type(value)]
