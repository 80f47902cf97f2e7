"""From rows of the sequences table to documents, and back: no JVM, and little of the table is read.

A row is found by the ranges of sequence_id in the log and in the footers of the files; its number is the rank
of its id (numbering.py), known from the log alone unless another program has moved rows to other files. A
document is found by the column doc_keys, 4 bytes a segment; reading the ids of the documents of 10 million
sequences instead takes many seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.dataset.arrays import LENGTHS, copy_name, open_array
from pipelines.dataset.doc_keys import make_doc_keys
from pipelines.dataset.local_copies import copies_folder, open_copy
from pipelines.dataset.numbering import RowNumbers, Runs, find_id_runs, number_rows
from pipelines.dataset.pinned_files import (
    NUM_THREADS,
    PinnedFile,
    list_columns,
    list_files,
    open_parquet,
    open_pinned,
    require_columns,
)
from pipelines.repeating import repeat_on_hdfs
from pipelines.storage import locate

SPAN_COLUMNS = ["sequence_id", "segments"]
ARRAYS = {"num_tokens": LENGTHS, "source": "source_codes"}
"""Arrays of a copy that have another name than the column."""
Found = TypeVar("Found")


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
        self._columns = list_columns(pinned)
        self._system, _ = locate(path)
        self.num_rows = sum(file.num_rows for file in self._files)

    def read_lengths(self) -> np.ndarray:
        """(num_rows,) int32 tokens of each row."""
        return self.read_column("num_tokens")

    def read_column(self, column: str, names: Sequence[str] = ()) -> np.ndarray:
        """(num_rows,) a numeric column of each row, or its `source` as the place in `names`, all sources of
        the split.

        From the copy of a training on this machine, else read once and kept beside the copies.
        """
        (_, table_id), version = self._table, self._version
        name, array = copy_name(table_id, version, self.split), ARRAYS.get(column, column)
        copied = open_array(copies_folder() / name, array)
        if copied is not None:
            return copied
        write = partial(self._write_column, column, names)
        with open_copy(copies_folder(f"column-{column}"), name, write) as folder:
            kept = open_array(folder, array)
            assert kept is not None, "open_copy shows complete copies only"
            return kept

    @cached_property
    def numbers(self) -> RowNumbers:
        """The row of each sequence. Raises ValueError if ids are missing or there twice."""

        def read_runs(file: PinnedFile) -> Runs:
            if file.last_id - file.first_id == file.num_rows - 1:
                return np.array([file.first_id]), np.array([file.num_rows])
            ids = self._open(file).read(columns=["sequence_id"], use_threads=False)["sequence_id"]
            return find_id_runs(ids.to_numpy())

        return number_rows(self._run(read_runs, self._files), self.split)

    def read_spans(self, rows: Sequence[int]) -> dict[int, list[Span]]:
        """The documents of each row, in their order. Reads the row groups that hold the rows.

        Raises ValueError for a row that the split does not have.
        """
        wanted = np.unique(self.numbers.find_ids(np.asarray(rows, dtype=np.int64)))
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
        for span in self._run_all(read, files):
            spans[int(self.numbers.find_rows(np.array([span.sequence_id]))[0])].append(span)
        return spans

    def find_document(self, doc_id: str) -> list[Span]:
        """The spans of a document, in the order of the rows; empty if it is in no row of the split.

        Raises ValueError if the table has no `doc_keys`.
        """
        self._require_columns(["doc_keys"])
        key = int(make_doc_keys([doc_id])[0])

        def has_key(rows: pa.Table) -> bool:
            return bool((rows["doc_keys"].combine_chunks().flatten().to_numpy() == key).any())

        def search(file: PinnedFile) -> list[Span]:
            parquet = self._open(file)
            if not has_key(parquet.read(columns=["doc_keys"], use_threads=False)):
                return []
            return [
                span
                for group in range(parquet.num_row_groups)
                if has_key(parquet.read_row_group(group, columns=["doc_keys"], use_threads=False))
                for span in _select(parquet, group, _all_rows)
                if span.doc_id == doc_id
            ]

        return sorted(self._run_all(search, self._files))

    def _write_column(self, column: str, names: Sequence[str], folder: Path) -> None:
        self._require_columns([column])
        # On disk from the start: a table of billions of rows has more lengths than fit into memory.
        file = folder / f"{ARRAYS.get(column, column)}.npy"
        kept = np.lib.format.open_memmap(file, "w+", np.int32, (self.num_rows,))

        def read(part: PinnedFile) -> None:
            rows = self._open(part).read(columns=["sequence_id", column], use_threads=False)
            values = pc.index_in(rows[column], pa.array(names)) if column == "source" else rows[column]
            kept[self.numbers.find_rows(rows["sequence_id"].to_numpy())] = values.to_numpy()

        for _ in self._run(read, self._files):
            pass
        kept.flush()

    def _require_columns(self, needed: Sequence[str]) -> None:
        require_columns(self._table[0], self._version, self._columns, needed)

    def _run_all(
        self, read: Callable[[PinnedFile], list[Span]], files: Sequence[PinnedFile]
    ) -> Iterator[Span]:
        for spans in self._run(read, files):
            yield from spans

    def _run(self, read: Callable[[PinnedFile], Found], files: Sequence[PinnedFile]) -> Iterator[Found]:
        # Threads hide the latency of a store. On a local disk they only contend: 256 rows of 10 million took
        # 0.7 s with one thread and 1.8 s with 16, on two busy cores.
        num_threads = 1 if self._system.type_name == "local" else NUM_THREADS
        with ThreadPoolExecutor(num_threads) as pool:
            yield from pool.map(read, files)

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
