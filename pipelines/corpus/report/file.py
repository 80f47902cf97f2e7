"""The page as a file, local or in a store: written whole, and found again by the documents it is about."""

import pyarrow.fs as pafs

from pipelines.corpus.report.markup import describe
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


def write_page(place: str, page: str) -> None:
    """The file appears completely or not at all."""
    folder, name = split_place(place)
    folder.write(name, page.encode())


def read_page(place: str, documents: Pin) -> str | None:
    """The page at `place`; None if there is none, or it is about other documents."""
    folder, name = split_place(place)
    try:
        page = folder.read(name).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    properties = {"version": str(documents.version), "digest": documents.digest}
    return page if describe(properties) in page else None
