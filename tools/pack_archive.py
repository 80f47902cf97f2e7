"""Write a pack as a tar.gz archive: the same files give the same bytes.

It is compressed because Spark unpacks a plain .tar by itself and forgets which files are programs
("Permission denied" on every executor); a .tar.gz goes to the system's tar.

Owners, times and order are fixed. Bytecode is compiled into the archive with the hash of its source instead
of its time, unchecked, so that a Python worker neither compiles torch again nor looks at the times of files.
Search paths of libraries that name this machine become relative.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import marshal
import mmap
import os
import tarfile
import time
import warnings
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, BinaryIO, Deque, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple, cast

from tools.elf import MAGIC, Elf, read_elf, replace_search_path
from tools.pack_items import Item
from tools.progress import HEARTBEAT_SECONDS, say

EPOCH = 315532800
"""1980-01-01: the time of every file."""
BLOCK_BYTES = 4 << 20
"""Bytes that one thread compresses at a time; each block is a gzip member of its own (RFC 1952, 2.2)."""
FLOORS = ("GLIBC", "GLIBCXX", "CXXABI")
"""Families of symbol versions: the machine must have at least the highest one that some library needs."""


class Written(NamedTuple):
    """What an archive holds and what it needs."""

    sha256: str
    num_bytes: int
    num_files: int


class Archive:
    """A tar.gz file that is being written. `close` completes it."""

    def __init__(self, path: Path, folders: Dict[str, str], total_bytes: int) -> None:
        """folders: folder of this machine -> folder inside the pack, for search paths of libraries."""
        self._stream = path.open("wb")
        self._output = _Output(self._stream)
        output = cast(IO[bytes], self._output)
        self._tar = tarfile.open(fileobj=output, mode="w|", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self._folders, self._total_bytes = folders, total_bytes
        self._num_files = self._num_bytes = 0
        self._started_at = self._said_at = time.monotonic()
        self.versions: Set[str] = set()
        """Symbol versions that the files written so far need from the machine."""

    def add(self, item: Item) -> None:
        """Write one file. A library gets a relative search path."""
        if item.source is None:
            self._write(item, io.BytesIO(item.content), len(item.content))
            return
        with item.source.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if stream.read(len(MAGIC)) != MAGIC:
                stream.seek(0)
                self._write(item, stream, size)
                return
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                elf = read_elf(content)
                if elf is not None:
                    self.versions |= elf.versions
                path = relative_search_path(elf, item.name, self._folders) if elf else None
                if elf is not None and path is not None:
                    changed = replace_search_path(content[:], elf, path)
                    self._write(item, io.BytesIO(changed), size)
                else:
                    self._write(item, content, size)

    def close(self) -> Written:
        """Complete the archive."""
        self._tar.close()
        self._output.finish()
        self._stream.close()
        return Written(self._output.digest.hexdigest(), self._output.num_bytes, self._num_files)

    def abandon(self) -> None:
        """Stop writing; what was written is of no use."""
        self._output.stop()
        self._stream.close()

    def _write(self, item: Item, stream: Any, size: int) -> None:
        header = tarfile.TarInfo(item.name)
        header.size, header.mtime = size, EPOCH
        header.mode = 0o755 if item.is_program or _is_executable(item.source) else 0o644
        self._tar.addfile(header, stream)
        self._num_files += 1
        self._num_bytes += size
        now = time.monotonic()
        if now - self._said_at >= HEARTBEAT_SECONDS:
            self._said_at = now
            done = f"{self._num_bytes / 1e9:.1f} of about {self._total_bytes / 1e9:.1f} GB"
            say(f"packing    {done}, {now - self._started_at:.0f} s")


class _Output:
    """The bytes of the archive: hashed, counted, and compressed by several threads, in order."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._block = stream, bytearray()
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count())
        self._waiting: Deque["Future[bytes]"] = deque()
        self.digest, self.num_bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._block += data
        while len(self._block) >= BLOCK_BYTES:
            self._compress(bytes(self._block[:BLOCK_BYTES]))
            del self._block[:BLOCK_BYTES]
        return len(data)

    def finish(self) -> None:
        self._compress(bytes(self._block))
        while self._waiting:
            self._put(self._waiting.popleft().result())
        self._threads.shutdown()

    def stop(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _compress(self, data: bytes) -> None:
        # Level 1: most bytes are machine code, which level 6 makes little smaller and takes far longer for.
        self._waiting.append(self._threads.submit(gzip.compress, data, 1, mtime=0))
        if len(self._waiting) > 2 * (os.cpu_count() or 1):
            self._put(self._waiting.popleft().result())

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self.digest.update(data)
        self.num_bytes += len(data)


def compile_all(items: Iterable[Item]) -> List[Item]:
    """The bytecode of every Python file; files that are no Python of this version have none."""
    sources = [item for item in items if item.name.endswith(".py")]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        compiled = pool.map(compile_source, sources, chunksize=100)
        return [item for item in compiled if item is not None]


def compile_source(item: Item) -> Optional[Item]:
    """foo/__pycache__/bar.cpython-311.pyc for foo/bar.py: hash-based and unchecked (PEP 552).

    None if the file has a syntax error: templates of some packages end in .py.
    """
    source = item.content if item.source is None else item.source.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            code = compile(source, item.name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None
    flags = (0b01).to_bytes(4, "little")
    content = importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source) + marshal.dumps(code)
    return Item(importlib.util.cache_from_source(item.name, optimization=""), None, content)


def relative_search_path(elf: Elf, name: str, folders: Dict[str, str]) -> Optional[str]:
    """The search path of a library with folders of this machine made relative; None if it names none.

    folders: folder of this machine, or a name that such folders end with -> folder inside the pack. Horovod's
    wheel, for example, names the environment in which it was built, which may be another checkout's. A path
    that would be longer than the old one is dropped: the starter's LD_LIBRARY_PATH serves the interpreter's
    libraries, and torch has loaded its own.
    """
    parts = elf.search_path.split(":")
    changed = [_make_relative(part, name, folders) for part in parts]
    if changed == parts:
        return None
    path = ":".join(part for part in changed if part)
    return path if len(path) <= len(elf.search_path) else ""


def find_floors(versions: Iterable[str]) -> Dict[str, str]:
    """The highest version of each family of FLOORS: {"GLIBC": "2.34", ...}."""
    highest: Dict[str, Tuple[int, ...]] = {}
    for version in versions:
        family, _, number = version.partition("_")
        if family in FLOORS and number.replace(".", "").isdigit():
            parts = tuple(map(int, number.split(".")))
            highest[family] = max(parts, highest.get(family, (0,)))
    return {family: ".".join(map(str, highest[family])) for family in FLOORS if family in highest}


def _make_relative(part: str, name: str, folders: Dict[str, str]) -> str:
    for here, inside in folders.items():
        before, found, after = f"{part}/".partition(f"{here}/")
        if part.startswith("/") and found and (not before or not here.startswith("/")):
            return "$ORIGIN/" + os.path.relpath(f"{inside}/{after}", Path(name).parent)
    return part


def _is_executable(source: Optional[Path]) -> bool:
    return source is not None and os.access(source, os.X_OK)
