"""The page and its numbers as files, local or in a store, found again by the documents they are about."""

from typing import NamedTuple

import pyarrow.fs as pafs

from pipelines.corpus.report.markup import describe
from pipelines.corpus.report.numbers import are_about, are_ours
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
    """Raises ValueError if a folder is at this place or at that of the numbers, or a file that is no report's
    would be replaced by the numbers."""
    folder, name = split_place(place)
    if _is_folder(place):
        raise ValueError(f"{place} is a folder; give the name of a file, such as {place}/report.html")
    numbers = name_numbers(place)
    beside = f"the numbers of the page {name} are written there; give the page another name"
    if _is_folder(numbers):
        raise ValueError(f"{numbers} is a folder; {beside}")
    try:
        found = folder.read(name_numbers(name))
    except FileNotFoundError:
        return
    if not are_ours(found.decode("utf-8", "replace")):
        raise ValueError(
            f"{numbers} is not of a report of a corpus: it has no documents_digest; {beside}, or move it away"
        )


def _is_folder(place: str) -> bool:
    files, path = locate(place)
    return bool(files.get_file_info(path).type == pafs.FileType.Directory)


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
