"""One WARC record -> the fields of a document, by fastwarc.

HTTP bodies are decoded by `http_body.py`, since fastwarc expands a body without limit: 260 kB became 256 MiB.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pipelines.corpus.readers.format import MalformedError, Record, Request
from pipelines.corpus.readers.html import extract_page
from pipelines.corpus.readers.http_body import decode_body
from pipelines.corpus.readers.lines import decode, too_long
from pipelines.corpus.readers.pages import decode_bytes
from pipelines.corpus.readers.values import Moment

FIELD_NAMES = ("text", "url", "timestamp", "title", "content_type", "encoding")
_DOCUMENTS = ("response", "resource", "conversion")
_HTML = ("text/html", "application/xhtml+xml")
_MAX_URL_CHARS = 8_192


class _Body(NamedTuple):
    data: bytes
    content_type: str
    """Media type in lower case; empty = none given."""
    charset: str | None


def read_record(offset: int, data: bytes, request: Request) -> Iterator[Record]:
    """The record, if it holds a document. Raises MalformedError."""
    from fastwarc.warc import WarcRecord

    try:
        found = WarcRecord.from_bytes(data)
        kind = str(found.headers.get("WARC-Type") or "").lower()
        if not kind:
            raise MalformedError("warc: the header has no WARC-Type")
        if kind in _DOCUMENTS:
            yield Record(offset, None, len(data), data, _read_fields(found, data, kind, request), None)
    except OSError as error:
        raise MalformedError(f"warc: {error}") from None


def _read_fields(found: Any, data: bytes, kind: str, request: Request) -> dict[str, object]:
    limit = request.max_record_bytes
    body = _read_http(found, data, limit) if found.is_http else _read_block(found, limit)
    if len(body.data) > limit:
        raise MalformedError(too_long(limit))
    url = str(found.headers.get("WARC-Target-URI") or "").strip().strip("<>")[:_MAX_URL_CHARS]
    date = found.headers.get("WARC-Date")
    fields: dict[str, object] = {
        "url": decode(url.encode("utf-8", "replace")) or None,
        "timestamp": Moment(date) if date else None,
        "content_type": body.content_type or None,
    }
    if kind == "conversion":
        return fields | {"text": decode(body.data)}
    if body.content_type in _HTML or (not body.content_type and b"<html" in body.data[:1024].lower()):
        page = extract_page(body.data, body.charset, main_content=request.options.main_content)
        return fields | page._asdict()
    if body.content_type.startswith("text/"):
        return fields | decode_bytes(body.data, body.charset)._asdict()
    raise MalformedError(f"content type: {body.content_type or 'none'} is neither HTML nor text")


def _read_block(found: Any, limit: int) -> _Body:
    """The block of a record without HTTP headers, and the type that the record itself names."""
    named, _, parameters = str(found.headers.get("Content-Type") or "").partition(";")
    _, _, charset = parameters.partition("charset=")
    return _Body(found.reader.read(limit + 1), named.strip().lower(), charset.strip(' "') or None)


def _read_http(found: Any, data: bytes, limit: int) -> _Body:
    """The decoded body of a response. Raises MalformedError if it is not a success, or cannot be decoded."""
    found.parse_http(auto_decode="none")
    headers = found.http_headers
    status = getattr(headers, "status_code", None)
    if status is None:
        raise MalformedError("http: the response has no status line")
    if not 200 <= status < 300:
        raise MalformedError(f"http: status {status}")
    content_type = str(found.http_content_type or "").lower()
    is_chunked = str(headers.get("Transfer-Encoding") or "").strip().lower() == "chunked"
    body = _join_chunks(data) if is_chunked else found.reader.read()
    encodings = str(headers.get("Content-Encoding") or "").lower()
    return _Body(decode_body(body, encodings, limit), content_type, found.http_charset)


def _join_chunks(data: bytes) -> bytes:
    """The body of a response, its chunks joined; as it is if it has none. Crawlers often join them."""
    from fastwarc.warc import WarcRecord

    for mode in ("transfer", "none"):
        record = WarcRecord.from_bytes(data)
        try:
            record.parse_http(auto_decode=mode)
            return record.reader.read()
        except OSError as error:
            problem = error
    raise problem
