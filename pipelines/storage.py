"""Files beside the tables (tokenizers, checkpoints, events), on any storage that Arrow reaches: local, HDFS,
S3, GCS, Azure. `stores` says how: endpoint, region, keys, patience.

Object stores cannot rename or append, so nothing here uses that. A file appears completely or not at all,
and a folder is complete when its manifest is.
"""

import hashlib
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.hdfs import HdfsHandler, open_hdfs
from pipelines.objects import ObjectStore
from pipelines.paths import local_path, split_options, split_scheme, without_credentials
from pipelines.placing import put_hdfs, put_local
from pipelines.stores import CONNECT_SECONDS, DEFAULT_REGION, S3, S3_SCHEMES, Stores, current

DBFS = Path("/dbfs")
"""Where Databricks mounts dbfs:/."""
_KEPT = "/:@!$&'()*+,;=~%"  # characters that the path of a URI may hold
_ARROW_SCHEMES = {"s3a": "s3", "s3n": "s3"}


def locate(path: str, stores: Stores | None = None) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or URI, and the path as that file system knows it. It is reached as
    `stores` says; None = as this process was configured.

    In a URI, %XX is a byte, ?name=value starts the options of a store (S3: region, endpoint_override), and
    any other character stands for itself, even if a strict URI would escape it. s3a: and s3n: mean s3:;
    dbfs: means its mount. Raises ValueError for a scheme that Arrow does not know.
    """
    scheme, rest = split_scheme(path)
    if scheme in ("", "file"):
        return pafs.LocalFileSystem(), local_path(scheme, rest)
    if scheme == "dbfs":
        return pafs.LocalFileSystem(), _mount_path(rest)
    if scheme == "hdfs":
        return _locate_hdfs(rest, stores or current())
    try:
        if scheme in S3_SCHEMES and _is_plain(rest):
            bucket = rest[2:].partition("/")[0]
            return _open_s3(bucket, (stores or current()).s3, _attempts(stores or current())), _s3_path(rest)
        return pafs.FileSystem.from_uri(strict_uri(path))
    except pa.ArrowInvalid as error:
        why = str(error).partition("\n")[0]
        if "Unrecognized filesystem type" in why:
            why = (
                f"Arrow has no file system for {scheme}:; use file, hdfs, s3, gs or abfss; for another store "
                "with the S3 protocol, s3://BUCKET/PATH?endpoint_override=HOST; or the folder of its mount"
            )
        raise ValueError(f"path {without_credentials(path)!r}: {without_credentials(why)}") from None


def _is_plain(rest: str) -> bool:
    """Whether an S3 URI names bucket and path only: options and keys in it say the rest themselves."""
    place, options = split_options(rest)
    return not options and "@" not in place[2:].partition("/")[0]


def _s3_path(rest: str) -> str:
    return unquote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", rest[2:])).strip("/")


@lru_cache(maxsize=16)
def _open_s3(bucket: str, s3: S3, attempts: int) -> pafs.FileSystem:
    """Arrow's client. Without endpoint and region it asks AWS for the region of the bucket, once."""
    options: dict[str, object] = {"anonymous": s3.credentials == "anonymous"}
    if s3.credentials == "keys":
        options |= {"access_key": s3.access_key, "secret_key": s3.secret_key}
        options |= {"session_token": s3.session_token} if s3.session_token else {}
    if s3.endpoint:
        options["scheme"], options["endpoint_override"] = s3.endpoint.split("://")
    region = s3.region or (DEFAULT_REGION if s3.endpoint else pafs.resolve_s3_region(bucket))
    return pafs.S3FileSystem(
        **options,
        region=region,
        connect_timeout=CONNECT_SECONDS,
        force_virtual_addressing=not s3.is_path_style,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


def _attempts(stores: Stores) -> int:
    """The SDK waits a random time below 1, 2, 4, 8 and then 20 s between attempts."""
    return 5 + round(stores.patience_seconds / 10) if stores.patience_seconds else 1


def _locate_hdfs(rest: str, stores: Stores) -> tuple[pafs.FileSystem, str]:
    authority, _, below = rest[2:].partition("/") if rest.startswith("//") else ("", "/", rest[1:])
    path = unquote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", below)).rstrip("/")
    return open_hdfs(authority, stores), f"/{path}"


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

    def __init__(self, path: str, stores: Stores | None = None) -> None:
        self._files, self._root = locate(path, stores)
        is_local = isinstance(self._files, pafs.LocalFileSystem)
        place, self._options = (self._root, "") if is_local else split_options(path)
        self._place, self._stores = place.rstrip("/"), stores
        self.path = f"{self._place}{self._options}" or "/"
        self._is_s3 = split_scheme(path)[0] in S3_SCHEMES
        self._objects = None if is_local or _hdfs_of(self._files) else ObjectStore(path, self._root, stores)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self._place}/{name}{self._options}", self._stores)

    def exists(self, name: str) -> bool:
        return _is_file(self._files, f"{self._root}/{name}")

    def names(self) -> list[str]:
        """Names of the files and folders directly inside, sorted; empty if the folder does not exist."""
        selector = pafs.FileSelector(self._root, allow_not_found=True)
        found = (info.base_name for info in self._files.get_file_info(selector))
        return sorted(name for name in found if not name.startswith(".writing-"))

    def read(self, name: str) -> bytes:
        if hdfs := _hdfs_of(self._files):
            return hdfs.read_file(f"{self._root}/{name}")
        with self._files.open_input_stream(f"{self._root}/{name}") as stream:
            return stream.read()

    def open(self, name: str) -> pa.NativeFile:
        """The file, to be read in parts; a context manager. Raises FileNotFoundError if there is none."""
        return self._files.open_input_file(f"{self._root}/{name}")

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write the file completely or not at all, also if the process is killed or the disk is full. A file
        of that name is replaced in one step.

        A local file is flushed to disk first.
        """
        self._put(name, content, replace=True)

    def write_chunks(self, name: str, chunks: Iterable[bytes | memoryview], *, num_bytes: int) -> None:
        """As `write`, without the whole file in memory: of the chunks, a few at a time are. They may be asked
        for again from the start, if servers lost what was written. `num_bytes`: their sum.
        """
        if self._objects is not None:
            self._objects.write_chunks(name, chunks, num_bytes)
        else:
            self._put_chunks(name, chunks, replace=True)

    def create(self, name: str, content: bytes | memoryview) -> bool:
        """Write the file if there is none of that name: True if this call created it, False if there is one.

        Of any number of callers at once, on any machines, exactly one gets True, and no one sees a part of
        the file. This is a hard link on local disks, a rename on HDFS, a conditional put on S3, GCS and
        Azure. A mount that has no hard links (FUSE) creates the file alone for one caller, too, but others
        may see it while it is being written.

        An answer that was lost on the way does no harm: if a second attempt finds a file, it compares the
        content. So give each caller a content of its own (a token). Raises OSError if the storage cannot
        create conditionally.
        """
        return self._put(name, content, replace=False)

    def _put(self, name: str, content: bytes | memoryview, *, replace: bool) -> bool:
        if self._objects is not None:  # shows a file only when it is complete
            if not replace:
                return self._objects.create(name, content)
            if self._is_s3:
                self._objects.write(name, content)
                return True
            with self._files.open_output_stream(f"{self._root}/{name}") as stream:
                stream.write(content)
            return True
        return self._put_chunks(name, [content], replace=replace)

    def _put_chunks(self, name: str, chunks: Iterable[bytes | memoryview], *, replace: bool) -> bool:
        """On a file system: a temporary file first."""
        target = f"{self._root}/{name}"
        parent, _, base = target.rpartition("/")
        self._files.create_dir(parent, recursive=True)
        # A temporary name per writer: if two write the same file at once, one of the two files remains.
        writing = f"{parent}/.writing-{base}-{uuid.uuid4().hex}"
        if hdfs := _hdfs_of(self._files):
            return put_hdfs(hdfs, writing, target, chunks, replace=replace)
        return put_local(Path(writing), target, chunks, replace=replace)

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
        if self._objects is not None and self._is_s3:  # Arrow would leave a marker for the folder above
            self._objects.delete(name)
            return
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


def _hdfs_of(files: pafs.FileSystem) -> HdfsHandler | None:
    handler = files.handler if isinstance(files, pafs.PyFileSystem) else None
    return handler if isinstance(handler, HdfsHandler) else None
