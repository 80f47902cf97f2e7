"""From rows of the sequences table to documents, and back: no JVM, and little of the table is read.

A row is found by the ranges of sequence_id in the log and in the footers of the files. A document is found by
its group (build.py): groups are numbered one after the other, so they rise with sequence_id, and a binary
search over the files finds the one that has the group. Reading the documents of 10 million sequences instead
takes many seconds. Where the number of groups is not recorded, or another program has moved the rows, all
files are searched.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.dataset.arrays import LENGTHS, copy_name, open_lengths
from pipelines.dataset.doc_groups import find_group
from pipelines.dataset.local_copies import copies_folder, open_copy
from pipelines.dataset.pinned_files import NUM_THREADS, PinnedFile, list_files, open_parquet, open_pinned
from pipelines.repeating import repeat_on_hdfs
from pipelines.storage import locate

SPAN_COLUMNS = ["sequence_id", "segments"]


class Span(NamedTuple):
    """The tokens of one document in one sequence."""

    sequence_id: int
    doc_id: str
    first_token: int
    num_tokens: int
    char_start: int
    """In the text of the document."""
    char_end: int


class SequenceTrace:
    """Which documents are in which rows of a split, at a pinned version of the table."""

    def __init__(self, path: str, *, table_id: str, version: int, split: str) -> None:
        self._table, self._version, self.split = (path, table_id), version, split
        pinned = repeat_on_hdfs(path, lambda: open_pinned(path, table_id=table_id, version=version))
        self._files = list_files(path, pinned, split=split)
        self._system, _ = locate(path)
        self.num_rows = sum(file.num_rows for file in self._files)

    def read_lengths(self) -> np.ndarray:
        """(num_rows,) int32 tokens of each row.

        From the copy of a training on this machine, else read once and kept beside the copies: 4 bytes a row.
        """
        (_, table_id), version = self._table, self._version
        lengths = open_lengths(copies_folder() / copy_name(table_id, version, self.split))
        if lengths is not None:
            return lengths
        name = copy_name(table_id, version, self.split)
        with open_copy(copies_folder("lengths"), name, self._write_lengths) as folder:
            kept = open_lengths(folder)
            assert kept is not None, "open_copy shows complete copies only"
            return kept

    def read_spans(self, rows: Sequence[int]) -> dict[int, list[Span]]:
        """The documents of each row, in their order. Reads the row groups that hold the rows."""
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        files = [file for file in self._files if _overlaps(file.first_id, file.last_id, wanted)]

        def read(file: PinnedFile) -> list[Span]:
            parquet = self._open(file)
            return [
                span
                for group in _list_row_groups(parquet, wanted)
                for span in _select(
                    parquet, group, lambda some: pc.is_in(some["sequence_id"], pa.array(wanted))
                )
            ]

        spans: dict[int, list[Span]] = {int(row): [] for row in rows}
        for span in self._run(read, files):
            spans[span.sequence_id].append(span)
        missing = [row for row, found in spans.items() if not found]
        if missing:
            raise ValueError(
                f"split {self.split} of {self._table[0]} has no sequence {missing[0]}; it has "
                f"{self.num_rows:,}, numbered from 0"
            )
        return spans

    def find_document(self, doc_id: str, *, num_groups: int | None) -> list[Span]:
        """The spans of a document, in the order of the rows; empty if it is in no row of the split.

        `num_groups`: of the documents, as the commit of the table records it; None = not known: all files are
        searched.
        """

        def search(file: PinnedFile) -> list[Span]:
            parquet = self._open(file)
            column = next(name for name in _leaf_names(parquet) if _is_leaf(name, "segments", "doc_id"))
            spans: list[Span] = []
            for group in range(parquet.num_row_groups):
                ids = _flatten(parquet.read_row_group(group, columns=[column], use_threads=False)["segments"])
                if pc.any(pc.equal(ids.field("doc_id"), doc_id)).as_py():
                    spans += [span for span in _select(parquet, group, _all_rows) if span.doc_id == doc_id]
            return spans

        return sorted(self._run(search, self._choose_files(doc_id, num_groups)))

    def _choose_files(self, doc_id: str, num_groups: int | None) -> list[PinnedFile]:
        """The files that may have the document."""
        files = self._files
        if num_groups is None or any(one.last_id >= other.first_id for one, other in pairwise(files)):
            return files
        group = find_group(doc_id, num_groups)

        @cache
        def read_group(index: int) -> int:
            """The group of the first row of a file."""
            row = files[index].first_id
            return find_group(self.read_spans([row])[row][0].doc_id, num_groups)

        numbers = range(len(files))
        first = bisect_left(numbers, group, key=read_group)
        # The file before may end with the group.
        return files[max(0, first - 1) : bisect_right(numbers, group, lo=first, key=read_group)]

    def _write_lengths(self, folder: Path) -> None:
        # On disk from the start: a table of billions of rows has more lengths than fit into memory.
        file = folder / f"{LENGTHS}.npy"
        lengths = np.lib.format.open_memmap(file, "w+", np.int32, (self.num_rows,))

        def read(part: PinnedFile) -> list[Span]:
            sizes = self._open(part).read(columns=["sequence_id", "num_tokens"], use_threads=False)
            lengths[sizes["sequence_id"].to_numpy()] = sizes["num_tokens"].to_numpy()
            return []

        list(self._run(read, self._files))
        if self.num_rows and lengths.min() < 1:
            raise ValueError(
                f"sequence_id of split {self.split} must run from 0 to {self.num_rows - 1} without gaps; run "
                "the dataset stage again"
            )
        lengths.flush()

    def _run(self, read: Callable[[PinnedFile], list[Span]], files: Sequence[PinnedFile]) -> Iterator[Span]:
        # Threads hide the latency of a store. On a local disk they only contend: 256 rows of 10 million took
        # 0.7 s with one thread and 1.8 s with 16, on two busy cores.
        num_threads = 1 if self._system.type_name == "local" else NUM_THREADS
        with ThreadPoolExecutor(num_threads) as pool:
            for spans in pool.map(read, files):
                yield from spans

    def _open(self, file: PinnedFile) -> pq.ParquetFile:
        return open_parquet(self._system, file.path)


def _overlaps(first_id: int, last_id: int, wanted: np.ndarray) -> bool:
    """Whether a number of `wanted`, which rises, is in the range."""
    at = int(np.searchsorted(wanted, first_id))
    return at < len(wanted) and int(wanted[at]) <= last_id


def _list_row_groups(parquet: pq.ParquetFile, wanted: np.ndarray) -> Iterator[int]:
    """Row groups whose range of sequence_id has one of `wanted`."""
    column = _leaf_names(parquet).index("sequence_id")
    for group in range(parquet.num_row_groups):
        statistics = parquet.metadata.row_group(group).column(column).statistics
        known = statistics is not None and statistics.has_min_max
        if not known or _overlaps(statistics.min, statistics.max, wanted):
            yield group


def _leaf_names(parquet: pq.ParquetFile) -> list[str]:
    schema = parquet.schema
    return [schema.column(index).path for index in range(len(schema.names))]


def _is_leaf(name: str, column: str, field: str) -> bool:
    # The names between depend on the program that wrote the file: list.element, list.item, bag.array.
    return name.startswith(f"{column}.") and name.endswith(f".{field}")


def _all_rows(rows: pa.Table) -> pa.Array:
    return pa.array(np.ones(rows.num_rows, dtype=bool))


def _select(parquet: pq.ParquetFile, group: int, choose: Callable[[pa.Table], pa.Array]) -> Iterable[Span]:
    """The spans of the chosen rows of a row group."""
    rows = parquet.read_row_group(group, columns=SPAN_COLUMNS, use_threads=False)
    rows = rows.filter(choose(rows))
    spans = _flatten(rows["segments"])
    owners = np.repeat(
        rows["sequence_id"].to_numpy(), pc.list_value_length(rows["segments"]).to_numpy()
    ).tolist()
    columns = [spans.field(name).to_pylist() for name in Span._fields[1:]]
    return [Span(*values) for values in zip(owners, *columns, strict=True)]


def _flatten(lists: pa.ChunkedArray) -> pa.StructArray:
    return lists.combine_chunks().flatten()
