"""HDFS as an Arrow file system, through the package hdfs-native: no JVM and no libhdfs in Python processes.

Name services, Kerberos and ports come from core-site.xml and hdfs-site.xml in HADOOP_CONF_DIR or
storage.hdfs.conf_dir. Not supported by hdfs-native: encryption zones.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
from hdfs_native import Client, FileStatus, FileWriter, WriteOptions

from pipelines.hdfs_streams import PatientReader, PatientWriter
from pipelines.repeating import repeat
from pipelines.stores import Stores, hdfs_retries

_Answer = TypeVar("_Answer")
_BUFFER_BYTES = 4 * 2**20


def open_hdfs(authority: str, stores: Stores) -> pafs.FileSystem:
    """The file system of hdfs://`authority`; an empty authority is fs.defaultFS."""
    retries = tuple(hdfs_retries(stores).items())
    client = _connect(authority, stores.hdfs.conf_dir, retries, os.getpid())
    return pafs.PyFileSystem(HdfsHandler(client, stores.patience_seconds))


@lru_cache(maxsize=16)
def _connect(
    authority: str, conf_dir: str | None, retries: tuple[tuple[str, str], ...], _process: int
) -> Client:
    # One client per process: its threads do not survive a fork.
    try:
        return Client(f"hdfs://{authority}", dict(retries), config_dir=conf_dir)
    except RuntimeError as error:
        raise ValueError(
            f"hdfs://{authority}: {_first_line(error)}; write hdfs://HOST:PORT/PATH, or set HADOOP_CONF_DIR "
            "(storage.hdfs.conf_dir) to the folder with core-site.xml and hdfs-site.xml"
        ) from None


class HdfsHandler(pafs.FileSystemHandler):
    """What Arrow asks of a file system, answered by an HDFS client."""

    def __init__(self, client: Client, patience_seconds: float) -> None:
        self.client, self._patience_seconds = client, patience_seconds

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HdfsHandler) and other.client is self.client

    def __hash__(self) -> int:
        return id(self.client)

    def get_type_name(self) -> str:
        return "hdfs"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        return [self._describe_path(path) for path in paths]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        try:
            found = self._ask(lambda: list(self.client.list_status(selector.base_dir, selector.recursive)))
        except FileNotFoundError:
            if selector.allow_not_found:
                return []
            raise
        # A file lists itself.
        if len(found) == 1 and not found[0].isdir and found[0].path == selector.base_dir.rstrip("/"):
            raise NotADirectoryError(f"{selector.base_dir} is a file")
        return [_describe(status) for status in found]

    def create_dir(self, path: str, recursive: bool) -> None:
        self._ask(lambda: self.client.mkdirs(path, create_parent=recursive))

    def delete_dir(self, path: str) -> None:
        self._delete(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        selector = pafs.FileSelector(path, allow_not_found=missing_dir_ok)
        for info in self.get_file_info_selector(selector):
            self._delete(info.path)

    def delete_root_dir_contents(self) -> None:
        self.delete_dir_contents("/")

    def delete_file(self, path: str) -> None:
        if self._describe_path(path).type == pafs.FileType.Directory:
            raise IsADirectoryError(f"{path} is a folder")
        self._delete(path)

    def move(self, src: str, dest: str) -> None:
        """In one step; a file at `dest` is replaced."""
        self._ask(lambda: self.client.rename(src, dest, overwrite=True))

    def copy_file(self, src: str, dest: str) -> None:
        with self.open_input_file(src) as source, self.open_output_stream(dest, None) as target:
            while piece := source.read(_BUFFER_BYTES):
                target.write(piece)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(PatientReader(path, lambda: self.client.read(path), self._ask), mode="r")

    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:
        def create() -> FileWriter:
            return self.client.create(path, WriteOptions(overwrite=True))

        return pa.PythonFile(PatientWriter(path, create, self._ask), mode="w")

    def open_append_stream(self, path: str, metadata: object) -> pa.NativeFile:
        return pa.PythonFile(self._ask(lambda: self.client.append(path)), mode="w")

    def read_file(self, path: str) -> bytes:
        """The content of a file that fits into memory."""
        return self._ask(lambda: self.client.read(path).read())

    def write_file(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a file whole; one at `path` is replaced. A data node that ends meanwhile loses the block that
        is being written, so the file is begun again with the first chunk, for as long as for every other
        question."""

        def write() -> None:
            with self.client.create(path, WriteOptions(overwrite=True)) as stream:
                for chunk in chunks:
                    stream.write(chunk)

        self._ask(write)

    def move_to_new(self, src: str, dest: str) -> None:
        """As `move`, but raises FileExistsError if there is a file at `dest`. In one step."""
        self._ask(lambda: self.client.rename(src, dest, overwrite=False))

    def _describe_path(self, path: str) -> pafs.FileInfo:
        try:
            return _describe(self._ask(lambda: self.client.get_file_info(path)), path)
        except (FileNotFoundError, NotADirectoryError):
            return pafs.FileInfo(path, pafs.FileType.NotFound)

    def _delete(self, path: str) -> None:
        if not self._ask(lambda: self.client.delete(path, recursive=True)):
            raise FileNotFoundError(path)

    def _ask(self, call: Callable[[], _Answer]) -> _Answer:
        """The answer of the servers. A name node that has just started is in safe mode, or knows no data
        node, until its data nodes have reported; the client does not wait for that."""

        def attempt() -> _Answer:
            with _plain_errors():
                return call()

        return repeat(attempt, self._patience_seconds)


def _describe(status: FileStatus, path: str | None = None) -> pafs.FileInfo:
    kind = pafs.FileType.Directory if status.isdir else pafs.FileType.File
    size = None if status.isdir else status.length
    return pafs.FileInfo(path or status.path, kind, size=size, mtime_ns=status.modification_time * 1_000_000)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors of the client as OSError, with their first line: below it is the stack of the name node."""
    try:
        yield
    except OSError as error:
        raise type(error)(*([error.errno] if error.errno else []), _first_line(error)) from None
    except RuntimeError as error:
        kind: Callable[[str], OSError] = OSError
        if "AccessControlException" in str(error):
            kind = PermissionError
        raise kind(_first_line(error)) from None


def _first_line(error: BaseException) -> str:
    return str(error).replace("\\n", "\n").partition("\n")[0]
