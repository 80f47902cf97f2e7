"""Repeated keys, found among hashes of keys that no shuffle moves.

1. A task keeps the 64-bit hashes of the keys of its rows. Up to INLINE_KEYS of them go to the driver with its
   result; more are sorted and written to key files beside its shards (`KeyWriter`).
2. All hashes are compared, a range at a time: equal keys have equal hashes, so they meet in one range
   (`find_repeated`). Up to RANGE_KEYS hashes are one range, compared on the driver. More are several ranges,
   each compared by one task, which reads its part of each file (`choose_num_ranges`).
3. A hash that occurs twice is a suspect: a repeated key, or two keys with one hash. The caller looks at the
   keys themselves.

So every repeated key is found, whatever the number of rows. Cost: 8 bytes a row are written and read once;
a file of 1 KiB and more per task of many rows; as many reads as files times ranges. Memory: 8 bytes for
CHUNK_KEYS in a task that writes, for RANGE_KEYS where they are compared. Needs no Spark.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.storage import locate

INLINE_KEYS = 2_048
"""Hashes that a task sends to the driver: 16 kB. 10,000 tasks send 160 MB."""
CHUNK_KEYS = 1_000_000
"""Hashes that a task holds before it writes them: 8 MB."""
RANGE_KEYS = 8_000_000
"""Hashes that are compared at once: 64 MB."""
MAX_SUSPECTS = 1_000
"""Repeated hashes that are named, of each range. If there are more, some are not."""
NUM_BUCKETS = 256
"""A file says where the hashes of each bucket start: the first 8 bits of a hash are its bucket."""
FOLDERLESS = ("s3", "gcs", "abfs")
"""Stores without folders, by Arrow's name: creating one would leave an empty object."""
_READERS = 8
"""Files that are read at once."""

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyHashes:
    """The hashes of the keys of some rows: every one of them, with its copies."""

    inline: bytes = b""
    """uint64, little-endian, in any order."""
    files: tuple[str, ...] = ()
    """Key files with more of them, relative to the folder of the table."""


@dataclass(slots=True)
class KeyWriter:
    """Takes the key hashes of the rows of one task."""

    table: str
    """Path or URI of the table."""
    folder: str
    """Folder of the key files, relative to the table."""
    inline: int = INLINE_KEYS
    chunk: int = CHUNK_KEYS
    _pending: list[Hashes] = field(default_factory=list)
    _num_pending: int = 0
    _files: list[str] = field(default_factory=list)

    def add(self, hashes: npt.NDArray[np.int64]) -> None:
        """Take int64 `hashes` (num_rows,)."""
        self._pending.append(hashes.view(np.uint64).copy())
        self._num_pending += len(hashes)
        if self._num_pending >= self.chunk:
            self._write()

    def close(self) -> KeyHashes:
        """All that were taken."""
        if self._num_pending > self.inline:
            self._write()
        rest = np.concatenate([np.empty(0, np.uint64), *self._pending])
        return KeyHashes(inline=rest.astype("<u8").tobytes(), files=tuple(self._files))

    def abandon(self) -> None:
        """Delete what was written: the task failed. What cannot be deleted stays until the next VACUUM."""
        files, root = locate(self.table)
        for name in self._files:
            with suppress(Exception):
                files.delete_file(f"{root.rstrip('/')}/{name}")

    def _write(self) -> None:
        self._files.append(write_key_file(self.table, self.folder, np.concatenate(self._pending)))
        self._pending, self._num_pending = [], 0


def write_key_file(table: str, folder: str, hashes: Hashes) -> str:
    """Write a key file with a name of its own; its path relative to `table`.

    Content, little-endian: where each bucket starts and where the last one ends, counted in hashes, as
    (NUM_BUCKETS + 1) uint32; then the hashes as uint64, ascending, each at most twice. So a range stays small
    also if most rows have one key.
    """
    ordered = np.sort(hashes)
    ordered = ordered[np.append([True, True], ordered[2:] != ordered[:-2])[: len(ordered)]]
    edges = np.arange(NUM_BUCKETS, dtype=np.uint64) << np.uint64(56)
    places = np.append(np.searchsorted(ordered, edges), len(ordered)).astype("<u4")
    files, root = locate(table)
    path = f"{folder}/{uuid.uuid4().hex[:16]}.keys"
    if files.type_name not in FOLDERLESS:
        files.create_dir(f"{root.rstrip('/')}/{folder}", recursive=True)
    with files.open_output_stream(f"{root.rstrip('/')}/{path}") as stream:
        stream.write(places.tobytes())
        stream.write(ordered.astype("<u8").tobytes())
    return path


def merge_keys(parts: Iterable[KeyHashes]) -> KeyHashes:
    """The hashes of all rows of some tasks."""
    known = list(parts)
    files = tuple(sorted(name for part in known for name in part.files))
    return KeyHashes(inline=b"".join(part.inline for part in known), files=files)


def choose_num_ranges(num_keys: int, range_keys: int) -> int:
    """Ranges of about `range_keys` hashes each: a power of 2, at most NUM_BUCKETS."""
    num_ranges = 1
    while num_ranges < NUM_BUCKETS and num_keys > num_ranges * range_keys:
        num_ranges *= 2
    return num_ranges


def find_repeated(table: str, keys: KeyHashes, number: int = 0, num_ranges: int = 1) -> list[int]:
    """The hashes, as int64, that occur more than once in range `number` of `num_ranges`: the smallest
    MAX_SUSPECTS of them."""
    parts = [_select(np.frombuffer(keys.inline, "<u8"), number, num_ranges)]
    files, root = locate(table)
    paths = [f"{root.rstrip('/')}/{name}" for name in keys.files]
    with ThreadPoolExecutor(_READERS) as pool:
        parts += pool.map(lambda path: _read_range(files, path, number, num_ranges), paths)
    ordered = np.concatenate(parts, dtype=np.uint64)
    parts.clear()
    ordered.sort()
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return [int(each) for each in repeated[:MAX_SUSPECTS].view(np.int64)]


def make_range_reader(
    table: str, keys: KeyHashes, num_ranges: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow`: numbers of ranges to the repeated hashes in them, as column hash."""

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                found = find_repeated(table, keys, number, num_ranges)
                yield pa.RecordBatch.from_pydict({"hash": pa.array(found, pa.int64())})

    return read


def pack_inline(table: str, folder: str, keys: KeyHashes) -> KeyHashes:
    """The same hashes, all of them in key files: for tasks that compare ranges."""
    if not keys.inline:
        return keys
    name = write_key_file(table, folder, np.frombuffer(keys.inline, "<u8"))
    return KeyHashes(files=(*keys.files, name))


def _select(hashes: Hashes, number: int, num_ranges: int) -> Hashes:
    """Those of a range."""
    buckets = (hashes >> np.uint64(56)).astype(np.int64)
    return hashes[buckets * num_ranges // NUM_BUCKETS == number]


def _read_range(files: pafs.FileSystem, path: str, number: int, num_ranges: int) -> Hashes:
    head, width = 4 * (NUM_BUCKETS + 1), NUM_BUCKETS // num_ranges
    with files.open_input_file(path) as file:
        places = np.frombuffer(file.read_at(head, 0), "<u4")
        first, end = int(places[number * width]), int(places[(number + 1) * width])
        hashes = np.frombuffer(file.read_at(8 * (end - first), head + 8 * first), "<u8")
    if len(hashes) != end - first:
        raise OSError(
            f"{path} has {len(hashes):,} of {end - first:,} hashes, so repeated keys could be missed; "
            "look at the storage, and run the stage again"
        )
    return hashes
