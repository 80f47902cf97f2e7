"""JSON Lines: one object per line (RFC 8259, UTF-8). An object never spans lines, so files are read in byte
slices.

Blank lines are not records. If an object repeats a name, the last value counts, as in Python and JavaScript.
A number keeps its spelling and becomes text, so the keys 1 and "1" are the same key.

orjson reads a line where its result is the one that Python's json gives; it accepts less than json does. A
line that it refuses or cannot judge (a NUL, a number whose spelling it does not keep, deep nesting) is read
by json, which also gives the reason if the line is broken. A test compares the two on damaged lines.
"""

import json
import re
from collections.abc import Generator, Iterable, Iterator
from typing import BinaryIO

import orjson

from pipelines.corpus.readers.format import Extent, Format, MalformedError, Record, Request, Slice
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


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The objects whose lines start in the slice."""
    return read_lines(stream, part, lambda lines: parse(lines, request), resumes=True)


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
            yield Record(offset, line, num_bytes, data, parse_object(content, request.names), None)
        except MalformedError as error:
            yield Record(offset, line, num_bytes, data, None, str(error))


def parse_json(text: str) -> object:
    """The value of a JSON text, numbers as `Number`. Raises MalformedError."""
    if len(text) > _MAX_VALUES:
        refuse_many_values(text.encode("utf-8", "surrogatepass"))
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise MalformedError("invalid JSON: nested too deeply") from None
    except ValueError as error:
        raise MalformedError(f"invalid JSON: {error}") from None


def parse_object(content: bytes, names: tuple[str, ...]) -> dict[str, object]:
    """The object of a JSON text; strings in the fields `names` are text. Raises MalformedError."""
    if len(content) > _MAX_VALUES:
        refuse_many_values(content)
    quick = parse_quickly(content, names)
    return parse_carefully(content, names) if quick is None else quick


def refuse_many_values(content: bytes) -> None:
    """Raises MalformedError if a JSON text has more than _MAX_VALUES values: 16 MiB of [[],[],[], ... would
    take a GiB."""
    found = _count_marks(content)
    if found > _MAX_VALUES:
        found -= sum(_count_marks(string[0]) for string in _STRING.finditer(content))
    if found > _MAX_VALUES:
        raise MalformedError(f"too many values: more than {_MAX_VALUES:,} in one record")


def _count_marks(content: bytes) -> int:
    """At most one value stands in front of each of these, or behind it."""
    return content.count(b",") + content.count(b"[") + content.count(b"{")


def parse_quickly(content: bytes, names: tuple[str, ...]) -> dict[str, object] | None:
    """The object by orjson, with `names` as `parse_carefully` gives them; None if it cannot be judged here.

    orjson refuses halves of surrogate pairs, NaN and bytes that are not UTF-8, so only NUL, numbers and depth
    are left to check.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    if type(value) is not dict:
        return None
    if _has_brackets_inside(content) and _may_be_deep(content) and not _is_shallow(value):
        return None
    for name in names:
        given = value.get(name)
        if type(given) is str:
            if "\0" in given:
                return None
        # orjson reads -0 as 0, and numbers above 64 bits as floats: only other integers keep their spelling.
        elif type(given) is int and given != 0:
            value[name] = Number(given)
        elif isinstance(given, (list, dict)):
            if b"\\u0000" in content or not _has_no_number(given):
                return None
        elif given is not None and given is not True and given is not False:
            return None
    return value


def _has_brackets_inside(content: bytes) -> bool:
    """Whether an object can hold arrays or objects. Looks for one byte, which is quicker than to count it."""
    return content.find(b"[") >= 0 or content.find(b"{", content.find(b"{") + 1) >= 0


def _may_be_deep(content: bytes) -> bool:
    """Brackets bound the depth, and counting them is quicker than walking through the value."""
    return content.count(b"[") + content.count(b"{") > _SAFE_DEPTH


def _is_shallow(value: object) -> bool:
    """Whether a value is nested much less deeply than json can read."""
    level, depth = [value], 0
    while level and depth < _SAFE_DEPTH:
        level, depth = (
            [inner for outer in level for inner in _inside(outer) if type(inner) in _NESTED],
            depth + 1,
        )
    return not level


def _has_no_number(value: object) -> bool:
    level = [value]
    while level:
        inner = [each for outer in level for each in _inside(outer)]
        if any(type(each) in (int, float) for each in inner):
            return False
        level = [each for each in inner if type(each) in _NESTED]
    return True


def _inside(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value  # type: ignore[return-value]


def parse_carefully(content: bytes, names: tuple[str, ...]) -> dict[str, object]:
    """The object by Python's json. Raises MalformedError with the reason."""
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


_NESTED = (list, dict)
_MAX_VALUES = 10**6
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A string without an end reaches to the end of the text: each quote in it would begin another scan."""
_SAFE_DEPTH = 500
"""json gives up at about 1,000 levels, minus the frames of its callers."""
_DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse)

FORMAT = Format(read=read, cut=cut_lines)
