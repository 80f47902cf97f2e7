"""Paths and URIs of any storage that Arrow reaches (local, HDFS, S3, GCS, Azure), and files beside the tables: tokenizers,
checkpoints, training events.

Object stores have no rename and no append, so nothing here needs them: a file appears whole or not at all, and a folder is
complete when its manifest is. Only on HDFS is there a moment without the file while one is replaced.
"""

import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.paths import local_path, split_options, split_scheme, without_credentials

DBFS = Path("/dbfs")
"""Where Databricks mounts dbfs:/."""
_KEPT = "/:@!$&'()*+,;=~%"  # what a URI may hold in its path
_ARROW_SCHEMES = {"s3a": "s3", "s3n": "s3"}


def locate(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or URI, and the path as that file system knows it.

    In a URI %XX is a byte, ?name=value begins the options of a store (S3: region, endpoint_override), and every other character
    stands for itself, also those that a strict URI escapes. s3a: and s3n: are s3:, dbfs: is its mount.
    Raises ValueError for a scheme that Arrow does not know.
    """
    scheme, rest = split_scheme(path)
    if scheme in ("", "file"):
        return pafs.LocalFileSystem(), local_path(scheme, rest)
    if scheme == "dbfs":
        return pafs.LocalFileSystem(), _mounted(rest)
    try:
        return pafs.FileSystem.from_uri(strict_uri(path))
    except pa.ArrowInvalid as error:
        why = str(error).partition("\n")[0]
        if "Unrecognized filesystem type" in why:
            why = (
                f"Arrow has no file system for {scheme}:; use file, hdfs, s3, gs or abfss, for another store that speaks S3 "
                "s3://BUCKET/PATH?endpoint_override=HOST, or the folder where it is mounted"
            )
        raise ValueError(f"path {without_credentials(path)!r}: {without_credentials(why)}") from None


def strict_uri(uri: str) -> str:
    """`uri` with Arrow's name of its scheme, its authority in place and what a URI may not hold escaped in its path."""
    scheme, rest = split_scheme(uri)
    place, options = split_options(rest)
    authority, slash, below = place[2:].partition("/") if place.startswith("//") else ("", "/", place[1:])
    below = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", below)
    return f"{_ARROW_SCHEMES.get(scheme, scheme)}://{authority}{slash}{quote(below, safe=_KEPT)}{options}"


def _mounted(rest: str) -> str:
    """dbfs:/x as Databricks mounts it; a volume (dbfs:/Volumes/x) has its own place."""
    below = unquote(rest.lstrip("/"))
    mount = Path("/Volumes") if below.startswith("Volumes/") else DBFS
    if not mount.is_dir():
        raise ValueError(
            f"path 'dbfs:{rest}': {mount} is not mounted here; use the URI of the store behind it (s3, abfss, gs)"
        )
    return str(mount.parent / below if mount != DBFS else mount / below)


class Folder:
    """A folder named by path or URI. Names may contain "/"."""

    def __init__(self, path: str) -> None:
        self._files, self._root = locate(path)
        place, self._options = (
            (self._root, "") if isinstance(self._files, pafs.LocalFileSystem) else split_options(path)
        )
        self._place = place.rstrip("/")
        self.path = f"{self._place}{self._options}" or "/"

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self._place}/{name}{self._options}")

    def exists(self, name: str) -> bool:
        return _is_file(self._files, f"{self._root}/{name}")

    def names(self) -> list[str]:
        """Names directly inside, files and folders, sorted; empty if the folder does not exist."""
        selector = pafs.FileSelector(self._root, allow_not_found=True)
        found = (info.base_name for info in self._files.get_file_info(selector))
        return sorted(name for name in found if not name.startswith(".writing-"))

    def read(self, name: str) -> bytes:
        with self._files.open_input_stream(f"{self._root}/{name}") as stream:
            return stream.read()

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Whole or not at all, also when the process is killed or the disk is full; a local file reaches the disk first.

        On HDFS a file that is replaced is missing for a moment, and stays missing if the process is killed in it.
        """
        target = f"{self._root}/{name}"
        parent, _, base = target.rpartition("/")
        self._files.create_dir(parent, recursive=True)
        # A name of its own for every writer: two may write the same file at once, and one of them stands whole.
        writing = f"{parent}/.writing-{base}-{uuid.uuid4().hex}"
        if isinstance(self._files, pafs.LocalFileSystem):
            _write_local(Path(writing), target, content)
        elif isinstance(self._files, pafs.HadoopFileSystem):
            _write_beside(self._files, writing, target, content)
        else:  # an object store shows a file when it is whole
            with self._files.open_output_stream(target) as stream:
                stream.write(content)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """The folder `name` as a local path: itself, or a copy for as long as the context lasts."""
        if isinstance(self._files, pafs.LocalFileSystem):
            yield Path(f"{self._root}/{name}")
            return
        with tempfile.TemporaryDirectory() as scratch:
            pafs.copy_files(
                f"{self._root}/{name}",
                scratch,
                source_filesystem=self._files,
                destination_filesystem=pafs.LocalFileSystem(),
            )
            yield Path(scratch)

    def delete(self, name: str) -> None:
        """Remove a file or a folder with all in it; nothing if it is not there."""
        info = self._files.get_file_info(f"{self._root}/{name}")
        if info.type == pafs.FileType.File:
            self._files.delete_file(info.path)
        elif info.type == pafs.FileType.Directory:
            self._files.delete_dir(info.path)


def folder_digest(folder: Path) -> str:
    """sha256 over names and contents of a folder's files, 32 hex digits; one pass over the files."""
    total = hashlib.sha256()
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()[:32]


def _is_file(files: pafs.FileSystem, path: str) -> bool:
    return files.get_file_info(path).type == pafs.FileType.File


def _write_local(writing: Path, target: str, content: bytes | memoryview) -> None:
    try:
        with writing.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        writing.replace(target)
    finally:
        writing.unlink(missing_ok=True)


def _write_beside(files: pafs.FileSystem, writing: str, target: str, content: bytes | memoryview) -> None:
    """For HDFS, which shows a file growing, moves it at once, and moves it onto no other file.

    Between delete and move `target` is missing. Of two writers at once the first to move stands, whole; the other gives way.
    """
    try:
        with files.open_output_stream(writing) as stream:
            stream.write(content)
        if _is_file(files, target):
            try:
                files.delete_file(target)
            except OSError:
                if _is_file(files, target):  # else the other writer was faster
                    raise
        try:
            files.move(writing, target)
        except OSError:
            if not _is_file(files, target):
                raise
    finally:
        if _is_file(files, writing):
            files.delete_file(writing)
