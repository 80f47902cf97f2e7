"""The files that a path names: itself, all below a folder, or those that fit a glob. On any file system of Arrow.

Names that begin with '_' or '.' are passed over (Spark's and Hive's convention: _SUCCESS, _delta_log, .crc are no data), unless
the name in the glob begins so too. A glob lists only folders that fit it, so an unreadable neighbour does not matter; '**' and a
folder list everything below. Links are followed, except back to a folder they were reached through, whose files are listed
anyway; one that leads nowhere is an error, since data is missing behind it.
"""

import os
import re
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

_WILDCARD = re.compile(r"[*?\[]")
_HIDDEN = ("_", ".")
_KINDS = {stat.S_IFREG: FileType.File, stat.S_IFDIR: FileType.Directory}
_NUM_LISTERS = 16
"""Folders listed at once: a store takes its time for each, and there may be thousands."""


class Entry(NamedTuple):
    """What stands in a folder under one name."""

    path: str
    kind: FileType
    """NotFound = a link that leads nowhere."""
    size: int
    """Bytes as stored."""
    modified_ns: int
    """Nanoseconds since 1970; 0 where the store keeps none."""
    identity: tuple[int, int] | None = None
    """Device and inode of a local one."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def find_files(files: FileSystem, path: str) -> tuple[str, list[Entry]]:
    """The root (the folder, the folder of the file, or the one above the first wildcard) and the files below it, in no order.

    Raises FileNotFoundError for a link that leads nowhere, PermissionError for a folder that must be listed and may not.
    """
    path = path.rstrip("/") or "/"
    named = _entry(files.get_file_info(path))
    if named.kind == FileType.File:
        return path.rpartition("/")[0], [named]
    if named.kind == FileType.Directory:
        return path, _below(files, path)
    if not (wildcard := _WILDCARD.search(path)):
        return path, []
    cut = path.rfind("/", 0, wildcard.start())
    root = path[:cut] or path[: cut + 1] if cut >= 0 else ""
    return root, _matching(files, root, path[cut + 1 :].split("/"))


def relative_to(root: str, path: str) -> str:
    return path.removeprefix(f"{root.rstrip('/')}/")


def _matching(files: FileSystem, root: str, parts: list[str]) -> list[Entry]:
    folders, found = [root], []
    with ThreadPoolExecutor(_NUM_LISTERS) as pool:
        for depth, part in enumerate(parts):
            if part == "**":
                hidden = any(name.startswith(_HIDDEN) for name in parts[depth:])
                trees = pool.map(partial(_below, files, hidden=hidden), folders)
                return [
                    entry
                    for folder, entries in zip(folders, trees, strict=True)
                    for entry in entries
                    if _fit(relative_to(folder, entry.path).split("/"), parts[depth:])
                ]
            listed = pool.map(partial(_children, files), folders)
            found = _living(entry for entries in listed for entry in entries if _fit([entry.name], [part]))
            folders = [entry.path for entry in found if entry.kind == FileType.Directory]
    return [entry for entry in found if entry.kind == FileType.File]


def _fit(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether names fit the parts of a glob one by one; '**' fits any number of them, as the last part at least one."""
    if not parts:
        return not names
    if parts[0] == "**" and len(parts) > 1 and _fit(names, parts[1:]):
        return True
    if not names or (names[0].startswith(_HIDDEN) and not parts[0].startswith(_HIDDEN)):
        return False
    if parts[0] == "**":
        return _fit(names[1:], parts) or (len(names) == 1 and len(parts) == 1)
    return fnmatchcase(names[0], parts[0]) and _fit(names[1:], parts[1:])


def _below(files: FileSystem, folder: str, *, hidden: bool = False) -> list[Entry]:
    if not isinstance(files, LocalFileSystem):
        listed = map(_entry, files.get_file_info(FileSelector(folder, allow_not_found=True, recursive=True)))
        return [
            entry
            for entry in listed
            if entry.kind == FileType.File
            and (
                hidden
                or not any(name.startswith(_HIDDEN) for name in relative_to(folder, entry.path).split("/"))
            )
        ]
    found, status = [], Path(folder).stat()
    waiting = [(folder, frozenset({(status.st_dev, status.st_ino)}))]
    while waiting:
        here, above = waiting.pop()
        for entry in _living(
            entry for entry in _children(files, here) if hidden or not entry.name.startswith(_HIDDEN)
        ):
            if entry.kind == FileType.File:
                found.append(entry)
            elif entry.kind == FileType.Directory and entry.identity and entry.identity not in above:
                waiting.append((entry.path, above | {entry.identity}))
    return found


def _living(entries: Iterable[Entry]) -> list[Entry]:
    living = []
    for entry in entries:
        if entry.kind == FileType.NotFound:
            target = Path(entry.path).readlink()
            raise FileNotFoundError(
                f"{entry.path} is a link to {target}, which cannot be reached; mend or remove it"
            )
        living.append(entry)
    return living


def _children(files: FileSystem, folder: str) -> list[Entry]:
    """What stands in a folder; nothing if there is none."""
    try:
        if not isinstance(files, LocalFileSystem):
            return [_entry(info) for info in files.get_file_info(FileSelector(folder, allow_not_found=True))]
        with os.scandir(folder) as listed:
            return [_local_entry(entry) for entry in listed]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        why = error.strerror or error
        raise PermissionError(
            f"{folder} cannot be listed ({why}); let this user read it, or leave it out by a glob"
        ) from None


def _entry(info: FileInfo) -> Entry:
    return Entry(info.path, info.type, info.size or 0, info.mtime_ns or 0)


def _local_entry(entry: os.DirEntry[str]) -> Entry:
    """By the system, not by Arrow, which leaves dead links out and fails at a name that is not UTF-8."""
    try:
        status = entry.stat()
    except OSError:
        return Entry(entry.path, FileType.NotFound if entry.is_symlink() else FileType.Unknown, 0, 0)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), FileType.Unknown)
    return Entry(entry.path, kind, status.st_size, status.st_mtime_ns, (status.st_dev, status.st_ino))
