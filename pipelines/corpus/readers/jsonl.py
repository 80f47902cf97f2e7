"""JSON Lines: one object per line (RFC 8259, UTF-8). An object never spans lines, so files are read in byte
slices.

Blank lines are not records. If an object repeats a name, the last value counts, as in Python and JavaScript.
A number keeps its spelling and becomes text, so the keys 1 and "1" are the same key.
"""

import json
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.corpus.readers.format import Format, MalformedError, Record, Request, Slice
from pipelines.corpus.readers.lines import (
    BOM,
    Lines,
    cut_lines,
    decode,
    read_lines,
    too_long,
    without_line_end,
)
from pipelines.corpus.readers.values import Number, check_strings, describe_kind


def read(stream: BinaryIO, part: Slice, request: Request) -> Iterator[Record]:
    """The objects whose lines start in the slice."""
    return read_lines(stream, part, lambda lines: parse(lines, request))


def parse(lines: Lines, request: Request) -> Iterator[Record]:
    max_record_bytes = request.max_record_bytes
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
            yield Record(offset, line, num_bytes, data, _parse_object(content, request.names), None)
        except MalformedError as error:
            yield Record(offset, line, num_bytes, data, None, str(error))


def parse_json(text: str) -> object:
    """The value of a JSON text, numbers as `Number`. Raises MalformedError."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise MalformedError("invalid JSON: nested too deeply") from None
    except ValueError as error:
        raise MalformedError(f"invalid JSON: {error}") from None


def _parse_object(content: bytes, names: tuple[str, ...]) -> dict[str, object]:
    text = decode(content)
    value = parse_json(text)
    if not isinstance(value, dict):
        raise MalformedError(f"not an object: the line holds {describe_kind(value)}")
    if "\\u" in text:  # only an escape can name what is not text
        for name in names:
            check_strings(value.get(name), name)
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse)

FORMAT = Format(read=read, cut=cut_lines, count_lines=True)
