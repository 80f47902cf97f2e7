"""HTML: each file is one document, with its title, canonical URL and date of publication.
`pages.py` decodes and extracts."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import BinaryIO

from pipelines.corpus.readers.format import Extent, Format, Record, Request, Slice
from pipelines.corpus.readers.guard import extract
from pipelines.corpus.readers.pages import Page
from pipelines.corpus.readers.whole import read_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    main_content: bool = True
    """Leave out menus, headers and footers; false = all visible text."""

    def __post_init__(self) -> None:
        if not isinstance(self.main_content, bool):
            raise ValueError(f"main_content must be true or false, got {self.main_content!r}")


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The one record of the file."""

    def convert(content: bytes) -> dict[str, object]:
        return extract_page(content, None, main_content=request.options.main_content)._asdict()

    return read_whole(stream, part, request, convert)


def extract_page(data: bytes, charset: str | None, *, main_content: bool) -> Page:
    """`pages.read_page` in the guard process. `charset`: what the server declared. Raises MalformedError."""
    text, *facts = extract("html", data, charset, "main" if main_content else None)
    return Page(text or "", *facts)


FORMAT = Format(read=read, field_names=Page._fields, options=Options)
