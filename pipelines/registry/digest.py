"""The digest that says whether two model folders are the same."""

import hashlib
from pathlib import Path


def folder_digest(folder: Path) -> str:
    """sha256 over names and contents of a folder's files, 32 hex digits; one pass over the files."""
    total = hashlib.sha256()
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()[:32]
