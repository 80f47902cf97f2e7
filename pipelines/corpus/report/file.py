"""The page and its numbers as files, local or in a store, found again by the documents they are about."""

from typing import NamedTuple

import pyarrow.fs as pafs

from pipelines.corpus.report.markup import describe
from pipelines.corpus.report.numbers import are_about
from pipelines.pin import Pin
from pipelines.storage import Folder, locate


def split_place(place: str) -> tuple[Folder, str]:
    """Folder and name of a file. Raises ValueError for a place without a name, or with options of a store."""
    folder, _, name = place.rpartition("/")
    if not name or "?" in place:
        raise ValueError(f"a report is one file, such as FOLDER/report.html; got {place}")
    # The root of a disk, or of a store (dbfs:/report.html).
    return Folder(f"{folder}/" if not folder or folder.endswith(":") else folder), name


def require_file(place: str) -> None:
    """Raises ValueError if a folder is at this place."""
    split_place(place)
    files, path = locate(place)
    if files.get_file_info(path).type == pafs.FileType.Directory:
        raise ValueError(
            f"{place} is a folder; give the name of a file, such as {place.rstrip('/')}/report.html"
        )


class Report(NamedTuple):
    """A page, and what it counts as JSON."""

    page: str
    numbers: str


def name_numbers(name: str) -> str:
    """report.html -> report.json; a name with another end gets .json behind it."""
    return f"{name.removesuffix('.html')}.json"


def write_report(place: str, page: str, numbers: str) -> None:
    """Each file appears completely or not at all; the page last, so a page has its numbers."""
    folder, name = split_place(place)
    folder.write(name_numbers(name), numbers.encode())
    folder.write(name, page.encode())


def read_report(place: str, documents: Pin) -> Report | None:
    """The report at `place`; None if one of its files is missing or about other documents."""
    folder, name = split_place(place)
    try:
        page, numbers = (folder.read(each).decode("utf-8", "replace") for each in (name, name_numbers(name)))
    except FileNotFoundError:
        return None
    properties = {"version": str(documents.version), "digest": documents.digest}
    is_current = describe(properties) in page and are_about(numbers, documents)
    return Report(page, numbers) if is_current else None
