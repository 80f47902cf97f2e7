"""Files beside the tables (tokenizers, checkpoints, training events) on any storage that Arrow reaches: local, HDFS, S3, GCS.

Object stores have no rename and no append, so nothing here needs them: a file appears whole or not at all, and a folder is
complete when its manifest is.
"""

import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as pafs


def absolute(path: str) -> str:
    """`path` as every process of the cluster must see it: a local path made absolute, a URI unchanged."""
    scheme = urlsplit(path).scheme
    if scheme == "file":
        return urlsplit(path).path
    return path if len(scheme) > 1 else str(Path(path).expanduser().absolute())


class Folder:
    """A folder named by path or URI. Names may contain "/"."""

    def __init__(self, path: str) -> None:
        self.path = absolute(path).rstrip("/")
        # Spark says s3a, Arrow s3.
        self._files, self._root = pafs.FileSystem.from_uri(re.sub(r"^s3[an]://", "s3://", self.path))

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.path}/{name}")

    def exists(self, name: str) -> bool:
        return self._files.get_file_info(f"{self._root}/{name}").type == pafs.FileType.File

    def names(self) -> list[str]:
        """Names directly inside, files and folders, sorted; empty if the folder does not exist."""
        selector = pafs.FileSelector(self._root, allow_not_found=True)
        found = (info.base_name for info in self._files.get_file_info(selector))
        return sorted(name for name in found if not name.startswith(".writing-"))

    def read(self, name: str) -> bytes:
        with self._files.open_input_stream(f"{self._root}/{name}") as stream:
            return stream.read()

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Whole or not at all, also when the process is killed or the disk is full; a local file reaches the disk first."""
        target = f"{self._root}/{name}"
        parent, _, base = target.rpartition("/")
        self._files.create_dir(parent, recursive=True)
        # A name of its own for every writer: two may write the same file at once, the last one whole wins.
        writing = f"{parent}/.writing-{base}-{uuid.uuid4().hex}"
        if not isinstance(self._files, pafs.LocalFileSystem):
            # An object store shows a file when it is whole; HDFS shows it growing, but moves it at once.
            moves = isinstance(self._files, pafs.HadoopFileSystem)
            with self._files.open_output_stream(writing if moves else target) as stream:
                stream.write(content)
            if moves:
                if self._files.get_file_info(target).type == pafs.FileType.File:
                    self._files.delete_file(target)
                self._files.move(writing, target)
            return
        partial = Path(writing)
        try:
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """The folder `name` as a local path: itself, or a copy for as long as the context lasts."""
        if isinstance(self._files, pafs.LocalFileSystem):
            yield Path(f"{self._root}/{name}")
            return
        with tempfile.TemporaryDirectory() as scratch:
            pafs.copy_files(f"{self._root}/{name}", scratch, source_filesystem=self._files,
                            destination_filesystem=pafs.LocalFileSystem())
            yield Path(scratch)

    def delete(self, name: str) -> None:
        """Remove a file or a folder with all in it; nothing if it is not there."""
        info = self._files.get_file_info(f"{self._root}/{name}")
        if info.type == pafs.FileType.File:
            self._files.delete_file(info.path)
        elif info.type == pafs.FileType.Directory:
            self._files.delete_dir(info.path)
