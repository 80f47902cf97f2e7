"""The files of a source: the file, folder or glob that its path names, on any file system of Arrow.

Names in tables are relative to the root of the source (the folder, the folder of the file, or the folder
above the first wildcard), so that document ids stay the same when the data moves.

Names that begin with '_' or '.' are skipped, as in Spark and Hive (_SUCCESS, _delta_log and .crc are not
data), unless the name in the glob begins so too. A glob lists only folders that match it, so an unreadable
neighbour does no harm; '**' and a folder list everything below. Links are followed, except back to a folder
on the way to them, whose files are listed anyway. A link without a target is an error, because data is
missing behind it.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from pipelines.corpus.readers.format import SourceFile
from pipelines.corpus.source import Source
from pipelines.paths import without_credentials
from pipelines.storage import locate

_WILDCARD = re.compile(r"[*?\[]")
_HIDDEN = ("_", ".")
_KINDS = {stat.S_IFREG: FileType.File, stat.S_IFDIR: FileType.Directory}
_NUM_LISTERS = 16
"""Folders listed at once: an object store needs 10 to 100 ms for each, and there may be thousands."""


class NoFilesError(FileNotFoundError):
    """A source names no file; a stream waits for the first one."""


class Entry(NamedTuple):
    """One name in a folder."""

    path: str
    kind: FileType
    """NotFound = a link without a target."""
    size: int
    """Bytes as stored."""
    modified_ns: int
    """Nanoseconds since 1970; 0 if the store keeps no time."""
    identity: tuple[int, int] | None = None
    """Device and inode of a local file or folder: they tell when a link leads back to a folder above it."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def pin_options(source: Source) -> Any:
    """The options of a source, with the version of a table as it is now. Errors as in `list_files`."""
    reader, options = source.reader, source.request.options
    with _named(source):
        return options if reader.pin is None else reader.pin(source.path, options)


@contextmanager
def _named(source: Source) -> Iterator[None]:
    """Errors name the source."""
    try:
        yield
    except (FileNotFoundError, PermissionError, ValueError) as error:
        raise type(error)(f"source {source.name!r}: {error}") from None


def list_files(source: Source, options: Any = None) -> list[SourceFile]:
    """The files of a source, sorted by relative name. `options`: those of the source, pinned; None = not.

    Raises NoFilesError if nothing matches (an empty source is a mistake in the path, not an empty corpus),
    FileNotFoundError if a link has no target, PermissionError for a folder that may not be listed, ValueError
    for a name that is not UTF-8.
    """
    find = source.reader.find
    with _named(source):
        if find is None:
            found = find_files(source.path)
        else:
            found = find(source.path, options or source.request.options)
        if not found:
            raise NoFilesError(f"no file at {without_credentials(source.path)}; {source.reader.when_empty}")
    return sorted(found, key=lambda file: file.relative)


def find_files(path: str) -> list[SourceFile]:
    """The files that a file, folder or glob names, in no order. Errors as in `list_files`."""
    root, found = find_entries(*locate(path))
    return [_describe_file(entry, root) for entry in found]


def find_entries(files: FileSystem, path: str) -> tuple[str, list[Entry]]:
    """The root of a path, as the module describes it, and the files below it, in no order."""
    path = path.rstrip("/") or "/"
    named = _describe_entry(files.get_file_info(path))
    if named.kind == FileType.File:
        return path.rpartition("/")[0], [named]
    if named.kind == FileType.Directory:
        return path, _list_tree(files, path)
    # A name with a bracket may exist as it is written, so a path is a glob only if it names nothing.
    if not (wildcard := _WILDCARD.search(path)):
        return path, []
    cut = path.rfind("/", 0, wildcard.start())
    root = path[:cut] or path[: cut + 1] if cut >= 0 else ""
    return root, _list_matching(files, root, path[cut + 1 :].split("/"))


def relative_to(root: str, path: str) -> str:
    return path.removeprefix(f"{root.rstrip('/')}/")


def _describe_file(entry: Entry, root: str) -> SourceFile:
    relative = relative_to(root, entry.path)
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"in {root} the name {os.fsencode(relative)!r} is not UTF-8; rename it (convmv can do it)"
        ) from None
    return SourceFile(path=entry.path, relative=relative, size=entry.size, modified_ns=entry.modified_ns)


def _list_matching(files: FileSystem, root: str, parts: list[str]) -> list[Entry]:
    """The files that match the parts of a glob. The folders of one level are listed in parallel."""
    folders, found = [root], []
    with ThreadPoolExecutor(_NUM_LISTERS) as pool:
        for depth, part in enumerate(parts):
            if part == "**":
                # Any depth from here on: list whole trees and match the rest of the glob against whole names.
                hidden = any(name.startswith(_HIDDEN) for name in parts[depth:])
                trees = pool.map(partial(_list_tree, files, hidden=hidden), folders)
                return [
                    entry
                    for folder, entries in zip(folders, trees, strict=True)
                    for entry in entries
                    if _matches(relative_to(folder, entry.path).split("/"), parts[depth:])
                ]
            listed = pool.map(partial(_list_folder, files), folders)
            found = _refuse_dead_links(
                entry for entries in listed for entry in entries if _matches([entry.name], [part])
            )
            folders = [entry.path for entry in found if entry.kind == FileType.Directory]
    return [entry for entry in found if entry.kind == FileType.File]


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether names match a glob. '**' matches any number of names; as the last part, one or more."""
    if not parts:
        return not names
    if parts[0] == "**" and len(parts) > 1 and _matches(names, parts[1:]):
        return True
    if not names or (names[0].startswith(_HIDDEN) and not parts[0].startswith(_HIDDEN)):
        return False
    if parts[0] == "**":
        return _matches(names[1:], parts) or (len(names) == 1 and len(parts) == 1)
    return fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


def _list_tree(files: FileSystem, folder: str, *, hidden: bool = False) -> list[Entry]:
    """The files of a folder and all folders below it. `hidden`: names that begin with '_' or '.' too."""
    if not isinstance(files, LocalFileSystem):
        # A store lists a tree with one request per 1,000 names; it has no links.
        listed = map(
            _describe_entry, files.get_file_info(FileSelector(folder, allow_not_found=True, recursive=True))
        )
        return [
            entry
            for entry in listed
            if entry.kind == FileType.File
            and (
                hidden
                or not any(name.startswith(_HIDDEN) for name in relative_to(folder, entry.path).split("/"))
            )
        ]
    # Each folder carries the folders above it by device and inode, so that a link back to one of them ends
    # there.
    found, status = [], Path(folder).stat()
    waiting = [(folder, frozenset({(status.st_dev, status.st_ino)}))]
    while waiting:
        here, above = waiting.pop()
        for entry in _refuse_dead_links(
            entry for entry in _list_folder(files, here) if hidden or not entry.name.startswith(_HIDDEN)
        ):
            if entry.kind == FileType.File:
                found.append(entry)
            elif entry.kind == FileType.Directory and entry.identity and entry.identity not in above:
                waiting.append((entry.path, above | {entry.identity}))
    return found


def _refuse_dead_links(entries: Iterable[Entry]) -> list[Entry]:
    """The entries. Raises FileNotFoundError if one is a link without a target."""
    living = []
    for entry in entries:
        if entry.kind == FileType.NotFound:
            target = Path(entry.path).readlink()
            raise FileNotFoundError(
                f"{entry.path} is a link to {target}, which does not exist; repair or remove the link"
            )
        living.append(entry)
    return living


def _list_folder(files: FileSystem, folder: str) -> list[Entry]:
    """The entries of a folder; none if it does not exist."""
    try:
        if not isinstance(files, LocalFileSystem):
            return [
                _describe_entry(info)
                for info in files.get_file_info(FileSelector(folder, allow_not_found=True))
            ]
        with os.scandir(folder) as listed:
            return [_describe_local_entry(entry) for entry in listed]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        why = error.strerror or error
        raise PermissionError(
            f"{folder} cannot be listed ({why}); let this user read it, or leave it out with a glob"
        ) from None


def _describe_entry(info: FileInfo) -> Entry:
    return Entry(info.path, info.type, info.size or 0, info.mtime_ns or 0)


def _describe_local_entry(entry: os.DirEntry[str]) -> Entry:
    """Asked from the system, because Arrow leaves out dead links and fails on names that are not UTF-8."""
    try:
        status = entry.stat()
    except OSError as error:
        if not entry.is_symlink() and not isinstance(error, FileNotFoundError):
            raise  # a fault of the disk or the network: the stage must not go on without this file
        return Entry(entry.path, FileType.NotFound if entry.is_symlink() else FileType.Unknown, 0, 0)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), FileType.Unknown)
    return Entry(entry.path, kind, status.st_size, status.st_mtime_ns, (status.st_dev, status.st_ino))
