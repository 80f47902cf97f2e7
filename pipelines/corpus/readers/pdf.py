"""PDF: each file is one document, its text page by page, with a blank line between pages.

PDFium extracts the text in the order in which the file draws it: 3 ms a page; pypdf needs 50 ms and loses the
spaces of one of our two manuals. A scanned file has no text, so it becomes an empty document, which a rule
drops. Encrypted files go to quarantine.
"""

from collections.abc import Generator
from contextlib import closing
from typing import BinaryIO, NamedTuple

from pipelines.corpus.readers.format import Extent, Format, MalformedError, Record, Request, Slice
from pipelines.corpus.readers.guard import extract
from pipelines.corpus.readers.lines import too_long
from pipelines.corpus.readers.values import Number
from pipelines.corpus.readers.whole import read_whole


class Pdf(NamedTuple):
    text: str
    title: str
    num_pages: int


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The one record of the file."""

    def convert(content: bytes) -> dict[str, object]:
        text, title, num_pages = extract("pdf", content, str(request.max_record_bytes))
        return {"text": text, "title": title, "pages": Number(num_pages)}

    return read_whole(stream, part, request, convert)


def read_pdf(content: bytes, max_record_bytes: int) -> Pdf:
    """Text, title and number of pages. Raises MalformedError if the file is no PDF, a page is damaged, or the
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
            title = document.get_metadata_value("Title").strip()
    except (PdfiumError, ValueError) as error:
        if isinstance(error, MalformedError):
            raise
        raise MalformedError(f"pdf: {error}") from None
    text_of_pages = "\n\n".join(page.strip() for page in pages)
    return Pdf(_clean(text_of_pages), _clean(title), len(pages))


def _clean(text: str) -> str:
    """The text without what fonts map to no character: NUL, halves of surrogate pairs. PDFium marks a hyphen
    at the end of a line by U+0002 or U+FFFE."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "").replace("\ufffe", "-").replace("\x02", "-")


FORMAT = Format(read=read, field_names=("text", "title", "pages"))
