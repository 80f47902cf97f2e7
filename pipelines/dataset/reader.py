"""Sequences of a pinned table version for one rank, straight from Delta's Parquet files with Arrow: no JVM.

A split is copied once per machine into flat memory-mapped arrays (arrays.py), so memory stays bounded by the
page cache, and the ranks of a machine share the copy. The copy is named by table id, version, split and
format. Where it exists, Delta is not touched.
"""

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from pathlib import Path

import numpy as np

from pipelines.dataset.arrays import (
    LENGTHS,
    FlatRows,
    copy_name,
    map_array,
    read_source_names,
    require_consistent,
    write_arrays,
)
from pipelines.dataset.copying import NEEDED_COLUMNS, copy_split
from pipelines.dataset.local_copies import copies_folder, open_copy
from pipelines.dataset.mixing.rules import CurriculumColumn
from pipelines.dataset.pinned_files import list_columns, open_pinned, require_columns, require_plain_files
from pipelines.dataset.rows import LABEL_SET, Rows
from pipelines.repeating import repeat_on_hdfs

PER_ROW = (
    "_starts",
    "_stops",
    "_segment_starts",
    "_segment_stops",
    "_class_starts",
    "_class_stops",
    "_labels",
    "_num_bytes",
    "num_targets",
    "lengths",
    "source_codes",
)
"""Arrays of a reader with one value per row."""


class SequenceReader:
    """Random access to the rows of one split. Rows are numbered from 0 in the order of sequence_id."""

    def __init__(self, folder: Path) -> None:
        self._tokens = map_array(folder, "tokens")
        self._is_target = map_array(folder, "is_target")
        starts, segment_starts = map_array(folder, "starts"), map_array(folder, "segment_starts")
        self._starts, self._stops = starts[:-1], starts[1:]
        self._segment_lengths = map_array(folder, "segment_lengths")
        self._segment_starts, self._segment_stops = segment_starts[:-1], segment_starts[1:]
        class_starts = map_array(folder, "class_starts")
        self._classes = map_array(folder, "classes")
        self._class_starts, self._class_stops = class_starts[:-1], class_starts[1:]
        self._labels = map_array(folder, "labels")
        self._num_bytes = map_array(folder, "num_bytes")
        self.num_targets = map_array(folder, "num_targets")
        """(num_rows,) int64 terms that each row adds to the loss."""
        self.lengths = map_array(folder, LENGTHS)
        """(num_rows,) int32 tokens of each row."""
        self.source_codes = map_array(folder, "source_codes")
        """(num_rows,) int32: the source of each row is source_names[code]."""
        self.source_names = read_source_names(folder)
        """Sources of the split, in the order of their names."""
        self._whole: SequenceReader | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def read_values(self, column: CurriculumColumn) -> np.ndarray:
        """(num_rows,) a numeric column of the table."""
        return {"num_tokens": self.lengths, "num_targets": self.num_targets, "num_bytes": self._num_bytes}[
            column
        ]

    def select(self, ids: np.ndarray) -> "SequenceReader":
        """A reader of the rows `ids` alone, ascending, numbered anew from 0. Memory: 80 bytes per row."""
        selected = copy(self)
        selected._whole = self  # which protects the copy on disk as long as it lives
        for name in PER_ROW:
            setattr(selected, name, getattr(self, name)[ids])
        return selected

    def rows(self, ids: np.ndarray) -> Rows:
        """The rows `ids`, (num_rows,) int64, as views of the memory maps where possible."""
        tokens = list(zip(self._starts[ids].tolist(), self._stops[ids].tolist(), strict=True))
        segments = list(
            zip(self._segment_starts[ids].tolist(), self._segment_stops[ids].tolist(), strict=True)
        )
        return Rows(
            input_ids=[self._tokens[start:stop] for start, stop in tokens],
            is_target=[self._is_target[start:stop] for start, stop in tokens],
            segment_lengths=[self._segment_lengths[start:stop] for start, stop in segments],
            labels=self._labels[ids],
            num_targets=self.num_targets[ids],
            num_bytes=self._num_bytes[ids],
            label_sets=self._read_label_sets(ids),
        )

    def count_classes(self, ids: np.ndarray) -> np.ndarray:
        """(num_rows,) classes in the sets of the rows `ids`; 0 where there is no set."""
        return self._class_stops[ids] - self._class_starts[ids]

    def _read_label_sets(self, ids: np.ndarray) -> list[np.ndarray] | None:
        # The rows of a table are of one task: the first one says whether they have sets.
        if not len(self) or self._labels[0] != LABEL_SET:
            return None
        starts, stops = self._class_starts[ids].tolist(), self._class_stops[ids].tolist()
        return [self._classes[start:stop] for start, stop in zip(starts, stops, strict=True)]


def open_split(
    path: str,
    *,
    table_id: str,
    version: int,
    split: str,
    copies: Path | None = None,
    max_bytes: int | None = None,
) -> SequenceReader:
    """The rows of `split` at `version`; the first caller on a machine makes the copy, the others wait for it.

    The copy is protected as long as the reader lives. To make room for a new one, those that were opened
    longest ago are deleted, so that all together have at most `max_bytes` (None = what the disk has).

    Raises ValueError if the table at `path` is not the pinned one or lacks columns, if its sequence ids have
    gaps, or if the files alone would be read wrongly, and OSError if there is no room for the copy.
    """

    def copy_files(folder: Path) -> None:
        pinned = open_pinned(path, table_id=table_id, version=version)
        require_plain_files(path, pinned)
        require_columns(path, version, list_columns(pinned), NEEDED_COLUMNS)
        copy_split(pinned.to_pyarrow_dataset(), split, folder, max_bytes=max_bytes)

    def make(folder: Path) -> None:
        repeat_on_hdfs(path, lambda: copy_files(folder))  # continues with the files that are left

    with ExitStack() as stack:
        name = copy_name(table_id, version, split)
        reader = SequenceReader(stack.enter_context(open_copy(copies or copies_folder(), name, make)))
        weakref.finalize(reader, stack.pop_all().close)
    return reader


def write_split(folder: Path, rows: Rows, sources: Sequence[str] | None = None) -> None:
    """Write `rows` as the arrays that SequenceReader(folder) maps. No Delta needed.

    `sources`: name of the source of each row; None = the rows have one source without a name. With `folder` =
    copies / copy_name(...), open_split finds them and looks for no table.

    Raises ValueError if a row contradicts itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_tokens = np.array([len(tokens) for tokens in rows.input_ids], dtype=np.int64)
    num_segments = np.array([len(lengths) for lengths in rows.segment_lengths], dtype=np.int64)
    label_sets = rows.label_sets or [np.empty(0, np.int32)] * len(num_tokens)
    named = [""] * len(num_tokens) if sources is None else sources
    source_names, source_codes = np.unique(np.array(named, dtype=np.str_), return_inverse=True)
    everything = FlatRows(
        ids=np.arange(len(num_tokens)),
        num_tokens=num_tokens,
        num_segments=num_segments,
        tokens=_join(rows.input_ids, np.int32),
        is_target=_join(rows.is_target, np.bool_),
        segment_lengths=_join(rows.segment_lengths, np.int32),
        num_classes=np.array([len(each) for each in label_sets], dtype=np.int64),
        classes=_join(label_sets, np.int32),
        labels=rows.labels,
        num_targets=rows.num_targets,
        num_bytes=rows.num_bytes,
        source_codes=source_codes,
    )
    write_arrays(folder, require_consistent(everything), source_names.tolist())


def _join(arrays: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)
