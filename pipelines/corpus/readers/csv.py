"""CSV as RFC 4180 has it: a header line, quoted fields with doubled quotes, delimiters and line breaks inside quotes.

Stricter than Python's csv, which takes a stray quote as text and lets a quote that is never closed swallow the file.
Lines are joined until their quotes are even in number. Only the first line is broken, and reading goes on at the next, where that
does not happen, where it makes no record, and where it makes one of the wrong number of fields while most of its other lines are
records alone. What no reader can tell is a bad quote that a later one closes where a field may end, with the right number of
fields: all lines between the two, up to max_record_bytes, are the text of one legal record (its num_chars shows it).
Cost: linear. An odd line is joined as far as the next odd line and the lines between the two stand alone after that: each is
joined, tried and read at most once. Empty lines are no records, also before the header. Only LF and CRLF end a line.
"""

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

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


class _Cut(NamedTuple):
    """The bytes of one record, not yet parsed; a reason where no record could be cut out."""

    offset: int
    line: int
    num_bytes: int
    raw: bytes
    reason: str | None

    def broken(self, reason: str | None) -> Record:
        return Record(self.offset, self.line, self.num_bytes, self.raw, None, reason)


class _Header(NamedTuple):
    num_fields: int
    columns: tuple[tuple[str, int], ...]
    """(column of the document, position of its field)"""
    problem: str | None
    """Why no record below can be read."""


def records(lines: Lines, source: Source) -> Iterator[Record]:
    """The records below the header; where the header cannot be used, it and every record are broken."""
    field = re.compile(rf'"([^"]*(?:""[^"]*)*)"|([^"\r\n{re.escape(source.delimiter)}]*)')
    header = None
    for cut in _joined(lines, source.max_record_bytes):
        if header is None:
            header = _header(cut, source, field)
            if header.problem:
                yield cut.broken(header.problem)
        elif header.problem or cut.reason:
            yield cut.broken(header.problem or cut.reason)
        else:
            yield _parsed(cut, header, lines, source.delimiter, field)
    if header is None and not lines.broken:
        yield Record(0, 1, 0, b"", None, "header: the file is empty")


def split_fields(text: str, delimiter: str, field: re.Pattern[str]) -> list[str]:
    """The values of one record. Raises MalformedError for a quote or a bare CR where RFC 4180 has none."""
    if '"' not in text and "\r" not in text:
        return text.split(delimiter)
    values, position = [], 0
    while True:
        match = field.match(text, position)
        assert match  # the second half of the pattern matches the empty string
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


def _joined(lines: Lines, max_record_bytes: int) -> Iterator[_Cut]:
    """Physical lines, joined where a quote is open."""
    limit = max_record_bytes + len("\r\n")
    while data := lines.read(limit):
        offset, line = lines.offset - len(data), lines.line - (data[-1:] == b"\n")
        reason = None
        if len(without_line_end(data)) > max_record_bytes:
            skipped = 0 if data[-1:] == b"\n" else lines.skip_line()
            yield _Cut(offset, line, len(data) + skipped, data, too_long(max_record_bytes))
            continue
        if data.count(b'"') % 2:
            data, reason = _closed(lines, data, max_record_bytes)
        if (data.removeprefix(BOM) if offset == 0 else data) not in (b"", b"\n", b"\r\n"):
            yield _Cut(offset, line, len(data), data, reason)


def _closed(lines: Lines, first: bytes, max_record_bytes: int) -> tuple[bytes, str | None]:
    """The line with those that follow up to the closing quote; or the line alone and why there is no closing quote."""
    joined, limit, is_open = bytearray(first), max_record_bytes + len("\r\n"), True
    while is_open and len(joined) < limit and (more := lines.read(limit - len(joined))):
        joined += more
        is_open ^= bool(more.count(b'"') % 2)
    data = bytes(joined)
    if not is_open and len(without_line_end(data)) <= max_record_bytes:
        return data, None
    lines.give_back(data[len(first) :])
    where = "max_record_bytes" if len(data) >= limit else "the end of the file"
    return first, f"open quote: a quote on this line is not closed before {where}"


def _header(cut: _Cut, source: Source, field: re.Pattern[str]) -> _Header:
    try:
        if cut.reason:
            raise MalformedError(cut.reason)
        names = split_fields(decode(without_line_end(cut.raw.removeprefix(BOM))), source.delimiter, field)
        for name in source.fields.values():
            if names.count(name) != 1:
                shown = ", ".join(names)[:200]
                raise MalformedError(
                    f"{name!r} stands {names.count(name)} times among {shown!r}; correct fields or delimiter"
                )
    except MalformedError as error:
        return _Header(0, (), f"header: {error}")
    return _Header(
        len(names), tuple((column, names.index(name)) for column, name in source.fields.items()), None
    )


def _parsed(cut: _Cut, header: _Header, lines: Lines, delimiter: str, field: re.Pattern[str]) -> Record:
    offset, line, num_bytes, raw, _ = cut
    data = without_line_end(raw)
    try:
        values = split_fields(decode(data), delimiter, field)
        if len(values) != header.num_fields:
            raise MalformedError(f"number of fields: {len(values)} where the header has {header.num_fields}")
        fields = checked({column: values[index] for column, index in header.columns})
        return Record(offset, line, num_bytes, raw, fields, None)
    except MalformedError as error:
        reason = str(error)
    first = raw.find(b"\n") + 1
    below = raw[first:] if first else b""
    num_fields = _num_fields(data, delimiter, field) if below else header.num_fields
    if num_fields == header.num_fields or (
        num_fields and not _are_records(below, header.num_fields, delimiter, field)
    ):
        return cut.broken(reason)
    if num_fields:
        num_lines, wanted = data.count(b"\n"), header.num_fields
        reason = f"open quote: closed {num_lines:,} lines below, where the number of fields is {num_fields:,}, not {wanted:,}"
    lines.give_back(below)
    return Record(offset, line, first, raw[:first], None, reason)


def _num_fields(data: bytes, delimiter: str, field: re.Pattern[str]) -> int | None:
    """Fields of the record, be the characters as they may; None where the quotes make none of it."""
    try:
        return len(split_fields(data.decode("utf-8", "surrogateescape"), delimiter, field))
    except MalformedError:
        return None


def _are_records(below: bytes, num_fields: int, delimiter: str, field: re.Pattern[str]) -> bool:
    """Whether most of the lines are records alone. Of one field they say nothing: a line of prose is such a record too."""
    num_lines = num_records = 0
    for line in io.BytesIO(below):
        num_lines += 1
        num_records += _num_fields(without_line_end(line), delimiter, field) == num_fields
    return num_fields > 1 and 2 * num_records > num_lines
