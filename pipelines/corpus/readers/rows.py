"""Records -> rows: the position of a record, and its document."""

from pipelines.corpus.ids import content_hash, doc_id
from pipelines.corpus.readers.format import Extent, MalformedError, Record
from pipelines.corpus.readers.mapping import Columns, TextMapper
from pipelines.corpus.readers.slices import Label

MAX_RAW_BYTES = 64 * 2**10
"""Of a broken record, kept in quarantine."""
_KEY_CHARS = 200
_REASON_CHARS = 1_000
_NO_EXTENT = (None,) * len(Extent._fields)

POSITIONS = """task INT, slice INT, source STRING, file STRING, offset BIGINT, line BIGINT, num_lines BIGINT,
               num_bytes BIGINT, first_member BIGINT, next_member BIGINT, doc_id STRING,
               has_key BOOLEAN, content_hash STRING, num_chars INT, split STRING, reason STRING, raw BINARY"""
"""A record without its text. Good records have doc_id, broken ones a reason and the first 64 KiB of raw; line
is counted from the start of the slice. The row of a slice has neither, but num_lines and what else its
`Extent` says."""

DOCUMENT_ROWS = """source STRING, file STRING, offset BIGINT, doc_id STRING, text STRING, label STRING,
                   split STRING, parts ARRAY<STRUCT<name: STRING, text: STRING>>,
                   metadata MAP<STRING, STRING>, content_hash STRING, num_chars INT, num_bytes INT,
                   duplicate_of STRING, failed_rule STRING"""

Place = tuple[int, int, str, str]
"""Task, slice, source and file."""


def make_position(at: Place, record: Record, mapper: TextMapper) -> tuple:
    """The row of a record. Values that do not fit the mapping break it."""
    reason = record.reason
    if record.values is not None:
        try:
            columns = mapper.map_values(record.values)
        except MalformedError as error:
            reason = str(error)
        else:
            digest = content_hash(columns.text.encode(), columns.parts)
            identity = doc_id(at[2], columns.key, at[3], record.offset)
            facts = (identity, columns.key is not None, digest, len(columns.text), columns.split)
            return (*at, record.offset, record.line, *_NO_EXTENT, *facts, None, None)
    return (
        *(*at, record.offset, record.line, *_NO_EXTENT),
        *(None, None, None, None, None),
        *(_shorten(reason or ""), record.raw[:MAX_RAW_BYTES]),
    )


def _shorten(reason: str) -> str:
    """The reason as text of bounded length, whatever it quotes of the file."""
    return reason[:_REASON_CHARS].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def make_summary(at: Place, start: int, extent: Extent) -> tuple:
    """The row of a slice."""
    return (*at, start, None, *extent, None, None, None, None, None, None, None)


def make_document(
    source: str, file: str, record: Record, mapper: TextMapper, label: Label | None
) -> tuple | None:
    """The document of a record; None if it is broken."""
    columns = map_record(record, mapper)
    if columns is None:
        return None
    key, text, label_text, split, parts, metadata, *_ = columns
    encoded = text.encode()
    return (
        *(source, file, record.offset, doc_id(source, key, file, record.offset)),
        *(encoded, label_text, split, parts, list(metadata.items()) if metadata else None),
        *(content_hash(encoded, parts), len(text), len(encoded)),
        *(label.duplicate_of if label else None, label.failed_rule if label else None),
    )


def measure_document(record: Record, document: tuple) -> int:
    """Bytes of a record and its document, about: a text may be a thousand times as long as its record."""
    metadata = document[8] or ()
    return len(record.raw) + len(document[4]) + sum(len(value) for _, value in metadata)


def make_repeated(at: Place, record: Record, mapper: TextMapper, label: Label) -> tuple:
    """The row of a record that repeats a key; raw is its text, because the bytes of good records vary."""
    columns = map_record(record, mapper)
    key, text = (columns.key or "", columns.text) if columns else ("", "")
    first = f"first in {label.first_file} at offset {label.first_offset}"
    reason = f"duplicate key: {key[:_KEY_CHARS]}; {first}"
    return (
        *(*at, record.offset, record.line, *_NO_EXTENT),
        *(None, None, None, None, None),
        *(reason, text.encode()[:MAX_RAW_BYTES]),
    )


def map_record(record: Record, mapper: TextMapper) -> Columns | None:
    """The columns of a record; None if it is broken."""
    if record.values is None:
        return None
    try:
        return mapper.map_values(record.values)
    except MalformedError:
        return None
