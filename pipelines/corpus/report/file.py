"""The page as a file, local or in a store: written whole, and found again by the documents it is about."""

from pipelines.corpus.report.markup import describe
from pipelines.pin import Pin
from pipelines.storage import Folder


def write_page(place: str, page: str) -> None:
    """The file appears completely or not at all."""
    folder, _, name = place.rpartition("/")
    Folder(folder).write(name, page.encode())


def read_page(place: str, documents: Pin) -> str | None:
    """The page at `place`; None if there is none, or it is about other documents."""
    folder, _, name = place.rpartition("/")
    try:
        page = Folder(folder).read(name).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    properties = {"version": str(documents.version), "digest": documents.digest}
    return page if describe(properties) in page else None
