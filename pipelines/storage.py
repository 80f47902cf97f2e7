"""Files beside the tables (tokenizers, checkpoints, events), on any storage that Arrow reaches: local, HDFS,
S3, GCS, Azure.

Object stores cannot rename or append, so nothing here uses that. A file appears completely or not at all,
and a folder is complete when its manifest is. Only on HDFS, a file that is being replaced is missing for a
moment.
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
_KEPT = "/:@!$&'()*+,;=~%"  # characters that the path of a URI may hold
_ARROW_SCHEMES = {"s3a": "s3", "s3n": "s3"}


def locate(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or URI, and the path as that file system knows it.

    In a URI, %XX is a byte, ?name=value starts the options of a store (S3: region, endpoint_override), and
    any other character stands for itself, even if a strict URI would escape it. s3a: and s3n: mean s3:;
    dbfs: means its mount. Raises ValueError for a scheme that Arrow does not know.
    """
    scheme, rest = split_scheme(path)
    if scheme in ("", "file"):
        return pafs.LocalFileSystem(), local_path(scheme, rest)
    if scheme == "dbfs":
        return pafs.LocalFileSystem(), _mount_path(rest)
    try:
        return pafs.FileSystem.from_uri(strict_uri(path))
    except pa.ArrowInvalid as error:
        why = str(error).partition("\n")[0]
        if "Unrecognized filesystem type" in why:
            why = (
                f"Arrow has no file system for {scheme}:; use file, hdfs, s3, gs or abfss; for another store "
                "with the S3 protocol, s3://BUCKET/PATH?endpoint_override=HOST; or the folder of its mount"
            )
        raise ValueError(f"path {without_credentials(path)!r}: {without_credentials(why)}") from None


def strict_uri(uri: str) -> str:
    """`uri` with Arrow's name for the scheme, an authority, and a path that is escaped as URIs require."""
    scheme, rest = split_scheme(uri)
    place, options = split_options(rest)
    authority, slash, below = place[2:].partition("/") if place.startswith("//") else ("", "/", place[1:])
    below = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", below)
    return f"{_ARROW_SCHEMES.get(scheme, scheme)}://{authority}{slash}{quote(below, safe=_KEPT)}{options}"


def _mount_path(rest: str) -> str:
    """The local path of dbfs:/x as Databricks mounts it. Volumes (dbfs:/Volumes/x) have their own mount."""
    below = unquote(rest.lstrip("/"))
    mount = Path("/Volumes") if below.startswith("Volumes/") else DBFS
    if not mount.is_dir():
        raise ValueError(
            f"path 'dbfs:{rest}': {mount} is not mounted here; use the URI of the store behind it "
            "(s3, abfss, gs)"
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
        """Names of the files and folders directly inside, sorted; empty if the folder does not exist."""
        selector = pafs.FileSelector(self._root, allow_not_found=True)
        found = (info.base_name for info in self._files.get_file_info(selector))
        return sorted(name for name in found if not name.startswith(".writing-"))

    def read(self, name: str) -> bytes:
        with self._files.open_input_stream(f"{self._root}/{name}") as stream:
            return stream.read()

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write the file completely or not at all, also if the process is killed or the disk is full.

        A local file is flushed to disk first. On HDFS, a file that is being replaced is missing for a moment,
        and stays missing if the process is killed in that moment.
        """
        target = f"{self._root}/{name}"
        parent, _, base = target.rpartition("/")
        self._files.create_dir(parent, recursive=True)
        # A temporary name per writer: if two write the same file at once, one of the two files remains.
        writing = f"{parent}/.writing-{base}-{uuid.uuid4().hex}"
        if isinstance(self._files, pafs.LocalFileSystem):
            _write_local(Path(writing), target, content)
        elif isinstance(self._files, pafs.HadoopFileSystem):
            _write_beside(self._files, writing, target, content)
        else:  # an object store shows a file only when it is complete
            with self._files.open_output_stream(target) as stream:
                stream.write(content)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A local path of the folder `name`: the folder itself, or a copy while the context lasts."""
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
        """Remove a file, or a folder with its content; do nothing if it does not exist."""
        info = self._files.get_file_info(f"{self._root}/{name}")
        if info.type == pafs.FileType.File:
            self._files.delete_file(info.path)
        elif info.type == pafs.FileType.Directory:
            self._files.delete_dir(info.path)


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of the files of a folder, 32 hex digits. One pass over the files."""
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
    """Write a temporary file and move it: HDFS shows a file while it grows, and cannot move it onto another.

    Between delete and move, `target` is missing. If two writers do this at once, the file of the first move
    remains.
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
