"""What an ELF file needs from the machine it runs on, and where it looks for it.

Only the dynamic section is read (System V ABI, chapter 5; GNU symbol versions), and only of 64-bit
little-endian files: the supported platforms have no others.
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import Dict, List, NamedTuple, Optional, Set, Tuple, Union

MAGIC = b"\x7fELF\x02\x01"
Content = Union[bytes, mmap]
"""A file in memory, or mapped: libraries are up to half a gigabyte long."""
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB, _SONAME, _RPATH, _RUNPATH = 1, 5, 14, 15, 29
_VERNEED, _VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF


class Elf(NamedTuple):
    """The dynamic section of one program or shared library."""

    soname: str
    """Name by which other files need it; empty if it has none."""
    needed: Tuple[str, ...]
    """Names of the libraries that are loaded with it."""
    search_path: str
    """RPATH or RUNPATH, folders separated by colons; empty if it has none."""
    search_path_offset: int
    """Where the search path stands in the file, in bytes; 0 if there is none."""
    versions: Set[str]
    """Symbol versions that it needs, such as GLIBC_2.28."""


def read_elf(content: Content) -> Optional[Elf]:
    """The dynamic section of a file; None if it is no ELF file or is linked statically."""
    if content[:6] != MAGIC:
        return None
    table, size, count = *struct.unpack_from("<Q", content, 32), *struct.unpack_from("<HH", content, 54)
    segments = []
    for number in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", content, table + number * size)
        segments.append((kind, offset, address, length))
    dynamic = next((segment for segment in segments if segment[0] == _DYNAMIC), None)
    if dynamic is None:
        return None
    tags: Dict[int, List[int]] = {}
    for position in range(dynamic[1], dynamic[1] + dynamic[3], 16):
        tag, value = struct.unpack_from("<QQ", content, position)
        if tag == 0:
            break
        tags.setdefault(tag, []).append(value)

    def find_offset(address: int) -> int:
        for kind, offset, start, length in segments:
            if kind == _LOAD and start <= address < start + length:
                return int(offset + address - start)
        raise ValueError(f"address {address:#x} is in no segment of the file")

    strings = find_offset(tags[_STRTAB][0])

    def read_text(offset: int) -> str:
        start = strings + offset
        return content[start : content.find(b"\0", start)].decode()

    path = tags.get(_RUNPATH) or tags.get(_RPATH)
    versions: Set[str] = set()
    if _VERNEED in tags:
        versions = _read_versions(content, find_offset(tags[_VERNEED][0]), tags[_VERNEEDNUM][0], strings)
    return Elf(
        soname=read_text(tags[_SONAME][0]) if _SONAME in tags else "",
        needed=tuple(map(read_text, tags.get(_NEEDED, []))),
        search_path=read_text(path[0]) if path else "",
        search_path_offset=strings + path[0] if path else 0,
        versions=versions,
    )


def replace_search_path(content: bytes, elf: Elf, path: str) -> bytes:
    """The file with another search path, in the place of the old one: no byte of it moves.

    Raises ValueError if the new path is longer than the old one.
    """
    old, new = elf.search_path.encode(), path.encode()
    if len(new) > len(old):
        raise ValueError(f"the search path {path!r} does not fit in place of {elf.search_path!r}")
    start = elf.search_path_offset
    return content[:start] + new.ljust(len(old), b"\0") + content[start + len(old) :]


def _read_versions(content: Content, position: int, count: int, strings: int) -> Set[str]:
    """Names of the symbol versions needed: a linked list of files, each with a linked list of versions."""
    found = set()
    for _ in range(count):
        _, num_versions, _, first, following = struct.unpack_from("<HHIII", content, position)
        entry = position + first
        for _ in range(num_versions):
            _, _, _, name, after = struct.unpack_from("<IHHII", content, entry)
            start = strings + name
            found.add(content[start : content.find(b"\0", start)].decode())
            entry += after
        position += following
    return found
