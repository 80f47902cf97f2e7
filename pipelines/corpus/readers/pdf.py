"""PDF: each file is one document, its text page by page, with a blank line between pages.

PDFium extracts the text in the order in which the file draws it: 3 ms a page; pypdf needs 50 ms and loses the
spaces of one of our two manuals. A scanned file has no text, so it becomes an empty document, which a rule
drops. Encrypted files go to quarantine. The date of creation becomes ISO 8601, as far as the
file gives it; what is no date of PDF (ISO 32000-1, 7.9.4) is left out.
"""

import re
from collections.abc import Generator
from contextlib import closing
from typing import BinaryIO, NamedTuple

from pipelines.corpus.readers.format import Extent, Format, MalformedError, Record, Request, Slice
from pipelines.corpus.readers.guard import extract
from pipelines.corpus.readers.lines import too_long
from pipelines.corpus.readers.values import Number
from pipelines.corpus.readers.whole import read_whole

_DATE = re.compile(
    r"(?:D:)?(\d{4})(?:(0[1-9]|1[0-2])(?:(0[1-9]|[12]\d|3[01])(?:([01]\d|2[0-3])([0-5]\d)([0-5]\d)?"
    r"(?:(Z)|([+-])(\d\d)(?:'?(\d\d))?)?)?)?)?'?",
    re.ASCII,
)


class Pdf(NamedTuple):
    text: str
    title: str
    author: str
    created: str | None
    num_pages: int


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The one record of the file."""

    def convert(content: bytes) -> dict[str, object]:
        text, title, author, created, num_pages = extract("pdf", content, str(request.max_record_bytes))
        return {
            "text": text,
            "title": title,
            "author": author,
            "created": created,
            "pages": Number(num_pages),
        }

    return read_whole(stream, part, request, convert)


def read_pdf(content: bytes, max_record_bytes: int) -> Pdf:
    """Text, facts and number of pages. Raises MalformedError if the file is no PDF, a page is damaged, or the
    text is longer than the limit. Runs in the guard process."""
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        with closing(PdfDocument(content)) as document:
            pages, num_chars = list[str](), 0
            for number in range(len(document)):
                with closing(document[number]) as page, closing(page.get_textpage()) as text:
                    pages.append(text.get_text_bounded())
                num_chars += len(pages[-1])
                if num_chars > max_record_bytes:
                    raise MalformedError(too_long(max_record_bytes))
            title, author = (document.get_metadata_value(name).strip() for name in ("Title", "Author"))
            created = _format_date(document.get_metadata_value("CreationDate"))
    except (PdfiumError, ValueError) as error:
        if isinstance(error, MalformedError):
            raise
        raise MalformedError(f"pdf: {error}") from None
    text_of_pages = "\n\n".join(page.strip() for page in pages)
    return Pdf(_clean(text_of_pages), _clean(title), _clean(author), created, len(pages))


def _format_date(written: str) -> str | None:
    """D:20220531112935+02'00' as 2022-05-31T11:29:35+02:00; None for what is no date."""
    found = _DATE.fullmatch(written.strip())
    if not found:
        return None
    year, month, day, hour, minute, second, utc, sign, zone_hours, zone_minutes = found.groups()
    date = "-".join(filter(None, (year, month, day)))
    if hour is None:
        return date
    zone = "Z" if utc else f"{sign}{zone_hours}:{zone_minutes or '00'}" if sign else ""
    return f"{date}T{hour}:{minute}:{second or '00'}{zone}"


def _clean(text: str) -> str:
    """The text without what fonts map to no character: NUL, halves of surrogate pairs. PDFium marks a hyphen
    at the end of a line by U+0002 or U+FFFE."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "").replace("\ufffe", "-").replace("\x02", "-")


FORMAT = Format(read=read, field_names=("text", "title", "author", "created", "pages"))
