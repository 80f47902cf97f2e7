"""Markdown: each file is one document, its text as written.

YAML front matter (lines between two lines of three hyphens at the start of the file) is not part of the text.
The title is the one of the front matter, otherwise the first heading of level 1.
"""

import re
from collections.abc import Generator
from typing import BinaryIO

from pipelines.corpus.readers.encoding import Options
from pipelines.corpus.readers.format import Extent, Format, Record, Request, Slice
from pipelines.corpus.readers.text import decode_file
from pipelines.corpus.readers.whole import read_whole

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
# The rest of the line is trimmed by strip: a pattern that does it takes the square of a line's length.
_TITLE = re.compile(r"^title:(.+)$", re.MULTILINE)
_HEADING = re.compile(r"^# +(.+)$", re.MULTILINE)


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The one record of the file."""

    def convert(content: bytes) -> dict[str, object]:
        text, encoding = decode_file(content, request.options.encoding)
        return {**split_front_matter(text), "encoding": encoding}

    return read_whole(stream, part, request, convert)


def split_front_matter(content: str) -> dict[str, object]:
    """Text and title; line ends become LF."""
    content = content.replace("\r\n", "\n")
    front = _FRONT_MATTER.match(content)
    text = content[front.end() :] if front else content
    named = _TITLE.search(front[1]) if front else None
    title = named[1].strip(" \t").strip("\"'") if named else None
    if title is None:
        headings = (found[1].rstrip(" #") for found in _HEADING.finditer(text))
        title = next(filter(None, headings), None)
    return {"text": text, "title": title}


FORMAT = Format(read=read, field_names=("text", "title", "encoding"), options=Options)
