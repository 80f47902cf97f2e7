"""The records of a CSV file after RFC 4180: a header line; fields in quotes may contain delimiters, line
breaks and doubled quotes.

Stricter than Python's csv module, which treats a stray quote as text and lets a quote that never closes
swallow the rest of the file. Here lines are joined until their number of quotes is even.

- If the quote never closes, or the joined lines are not a valid record, only the first line is quarantined;
  reading resumes at the next line.
- The same happens if the joined record has the wrong number of fields while most of its other lines are valid
  records on their own: the quote on the first line was a mistake.
- One mistake cannot be detected: a bad quote that a later quote closes at the end of a field, with the right
  number of fields. Everything between them, up to max_record_bytes, is the text of one legal record; its
  num_chars shows it.

Cost: linear. An odd line is joined only up to the next odd line, and the lines between them are then read on
their own, so each line is joined, tried and read at most once. Empty lines are not records, also before the
header. Only LF and CRLF end a line."""

import io
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from pipelines.corpus.readers.format import MalformedError, Record, Request
from pipelines.corpus.readers.lines import BOM, Lines, too_long, without_line_end


class _Cut(NamedTuple):
    """The bytes of one record, not parsed yet; with a reason if no record could be cut out."""

    offset: int
    line: int
    num_bytes: int
    raw: bytes
    reason: str | None

    def quarantine(self, reason: str | None) -> Record:
        return Record(self.offset, self.line, self.num_bytes, self.raw, None, reason)


class Header(NamedTuple):
    num_fields: int
    columns: tuple[tuple[str, int], ...]
    """(field that the source maps, its position)"""
    problem: str | None
    """Why no record of the file can be read."""


def parse(lines: Lines, request: Request) -> Iterator[Record]:
    """The records below the header. If the header is unusable, it and every record are quarantined."""
    header, broken = read_header(lines, request)
    yield from broken
    if header is not None:
        yield from parse_records(lines, header, request)


def read_header(lines: Lines, request: Request) -> tuple[Header | None, list[Record]]:
    """The header, the first record of the file, and its row of quarantine if it is unusable. None = the file
    has no record."""
    cut = next(_join_lines(lines, request.max_record_bytes), None)
    if cut is None:
        empty = Record(0, 1, 0, b"", None, "header: the file is empty")
        return None, [] if lines.broken else [empty]
    header = _parse_header(cut, lines, request)
    return header, [cut.quarantine(header.problem)] if header.problem else []


def parse_records(lines: Lines, header: Header, request: Request) -> Iterator[Record]:
    """The records from a line on that starts one. When a record is given, `lines` stands behind it."""
    delimiter = request.options.delimiter
    field = _compile(delimiter)
    for cut in _join_lines(lines, request.max_record_bytes):
        if header.problem or cut.reason:
            yield cut.quarantine(header.problem or cut.reason)
        else:
            yield _parse_record(cut, header, lines, delimiter, field)


@cache
def _compile(delimiter: str) -> re.Pattern[str]:
    # Nothing is tried twice (++): what could be tried again is kept, 70 bytes for each doubled quote.
    return re.compile(rf'"([^"]*+(?:""[^"]*+)*+)"|([^"\r\n{re.escape(delimiter)}]*+)')


def split_fields(text: str, delimiter: str, field: re.Pattern[str]) -> list[str]:
    """The values of one record. Raises MalformedError for a quote or a bare CR in the wrong place."""
    if '"' not in text and "\r" not in text:
        return text.split(delimiter)
    values, position = [], 0
    while True:
        match = field.match(text, position)
        assert match  # the second alternative matches the empty string
        quoted, plain = match.groups()
        values.append(plain if quoted is None else quoted.replace('""', '"'))
        position = match.end()
        if position == len(text):
            return values
        if text[position] != delimiter:
            raise MalformedError(
                f"quote or line break: {text[position]!r} at character {position} of the record"
            )
        position += 1


def locate_names(names: tuple[str, ...], header: list[str]) -> tuple[tuple[str, int], ...]:
    """(name, position) of the mapped fields. Raises MalformedError unless the header has each once."""
    for name in names:
        if header.count(name) != 1:
            known = ", ".join(header)[:200]
            raise MalformedError(
                f"{name!r} appears {header.count(name)} times in {known!r}; "
                "correct the mapping of fields or the delimiter"
            )
    return tuple((name, header.index(name)) for name in names)


def _join_lines(lines: Lines, max_record_bytes: int) -> Iterator[_Cut]:
    """Physical lines, joined while a quote is open."""
    limit = max_record_bytes + len("\r\n")
    while data := lines.read(limit):
        offset, line = lines.offset - len(data), lines.line - (data[-1:] == b"\n")
        reason = None
        if len(without_line_end(data)) > max_record_bytes:
            skipped = 0 if data[-1:] == b"\n" else lines.skip_line()
            yield _Cut(offset, line, len(data) + skipped, data, too_long(max_record_bytes))
            continue
        # A doubled quote inside a quoted field adds two, so an odd number always means an open quote.
        if data.count(b'"') % 2:
            data, reason = _read_to_closing_quote(lines, data, max_record_bytes)
        if (data.removeprefix(BOM) if offset == 0 else data) not in (b"", b"\n", b"\r\n"):
            yield _Cut(offset, line, len(data), data, reason)


def _read_to_closing_quote(lines: Lines, first: bytes, max_record_bytes: int) -> tuple[bytes, str | None]:
    """The lines up to the closing quote; or the first line alone, and why there is no closing quote."""
    joined, limit, is_open = bytearray(first), max_record_bytes + len("\r\n"), True
    while is_open and len(joined) < limit and (more := lines.read(limit - len(joined))):
        joined += more
        is_open ^= bool(more.count(b'"') % 2)
    data = bytes(joined)
    if not is_open and len(without_line_end(data)) <= max_record_bytes:
        return data, None
    # The quote is a mistake of the first line only: the lines below it must not be lost with it.
    lines.give_back(data[len(first) :])
    where = "max_record_bytes" if len(data) >= limit else "the end of the file"
    return first, f"open quote: a quote on this line is not closed before {where}"


def _parse_header(cut: _Cut, lines: Lines, request: Request) -> Header:
    delimiter = request.options.delimiter
    try:
        if cut.reason:
            raise MalformedError(cut.reason)
        text = lines.decode(without_line_end(cut.raw.removeprefix(BOM)))
        header = split_fields(text, delimiter, _compile(delimiter))
        return Header(len(header), locate_names(request.names, header), None)
    except MalformedError as error:
        return Header(0, (), f"header: {error}")


def _parse_record(cut: _Cut, header: Header, lines: Lines, delimiter: str, field: re.Pattern[str]) -> Record:
    offset, line, num_bytes, raw, _ = cut
    data = without_line_end(raw)
    try:
        text = lines.decode(data)
        _refuse_many_fields(text, header.num_fields, delimiter)
        values = split_fields(text, delimiter, field)
        if len(values) != header.num_fields:
            raise MalformedError(f"number of fields: {len(values)}, but the header has {header.num_fields}")
        return Record(
            offset, line, num_bytes, raw, {name: values[index] for name, index in header.columns}, None
        )
    except MalformedError as error:
        reason = str(error)
    # The record is broken. If it was joined from several lines, decide whether they belong together.
    first = raw.find(b"\n") + 1
    below = raw[first:] if first else b""
    num_fields = _count_fields(data, delimiter, field) if below else header.num_fields
    if num_fields == header.num_fields or (
        num_fields and not _are_records(below, header.num_fields, delimiter, field)
    ):
        return cut.quarantine(reason)
    if num_fields:
        num_lines, wanted = data.count(b"\n"), header.num_fields
        reason = (
            f"open quote: closed {num_lines:,} lines below, where the number of fields is "
            f"{num_fields:,}, not {wanted:,}"
        )
    lines.give_back(below)
    return Record(offset, line, first, raw[:first], None, reason)


def _refuse_many_fields(text: str, num_fields: int, delimiter: str) -> None:
    """Raises MalformedError for a record without quotes and with too many fields, before they are split."""
    if (found := text.count(delimiter) + 1) > num_fields and '"' not in text and "\r" not in text:
        raise MalformedError(f"number of fields: {found}, but the header has {num_fields}")


def _count_fields(data: bytes, delimiter: str, field: re.Pattern[str]) -> int | None:
    """Fields of the record, whatever its characters are; None if its quotes make no record."""
    try:
        return len(split_fields(data.decode("utf-8", "surrogateescape"), delimiter, field))
    except MalformedError:
        return None


def _are_records(below: bytes, num_fields: int, delimiter: str, field: re.Pattern[str]) -> bool:
    """Whether most of the lines are records on their own.

    With one field this proves nothing, because any line of prose is a record; the answer is False.
    """
    num_lines = num_records = 0
    for line in io.BytesIO(below):
        num_lines += 1
        num_records += _count_fields(without_line_end(line), delimiter, field) == num_fields
    return num_fields > 1 and 2 * num_records > num_lines
