"""The files of a table to the flat arrays of one split: bounded memory, several files at a time, continued
after a kill. Arrow and NumPy only.

The order of training is a permutation of all rows that changes with every epoch, so every machine needs the
whole split: 5 bytes per token, 4 per segment, 4 per class of a set and 64 per row on its disk, which is
checked before the first value is read. Memory does not depend on the number of rows: the index lies in
memory-mapped files, too.

Three passes. The first reads the ids, which say where each row goes (numbering.py), and the names of the
sources. The second reads the sizes of all rows (small columns) and lays out the arrays. The third reads
the values; every file that is done is noted, so a copy that was interrupted continues with the files that are
left.
"""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipelines.dataset.arrays import (
    FlatArrays,
    FlatRows,
    create_index,
    lay_out,
    mark_runs,
    require_consistent,
    write_source_names,
)
from pipelines.dataset.local_copies import make_room
from pipelines.dataset.numbering import RowNumbers, Runs, find_id_runs, join_runs, number_rows
from pipelines.dataset.pinned_files import LATER_COLUMNS, add_later_columns
from pipelines.dataset.rows import LABEL_SET, NO_LABEL

ID_COLUMNS = ["sequence_id", "source"]
SIZE_COLUMNS = ["sequence_id", "num_tokens", "segments", "labels"]
VALUE_COLUMNS = [*SIZE_COLUMNS, "source", "input_ids", "targets", "label", "num_targets", "num_bytes"]
NEEDED_COLUMNS = [name for name in VALUE_COLUMNS if name not in LATER_COLUMNS.names]
BATCH_ROWS = 4096
"""Rows that a thread holds at once: 17 MB of tokens at 1,024 tokens per row. Arrow's default is 131,072."""
JOINED_BATCHES = 8
"""Batches whose runs of ids are joined at once: a file in the order of its ids has one run."""
NUM_THREADS = 4
"""Files read at a time: enough to hide the latency of a store."""
DISK_MARGIN = 1.05


class _Rows(NamedTuple):
    """Where the rows of a split go."""

    numbers: RowNumbers
    sources: pa.Array
    """Names, ascending."""


class _Chosen(NamedTuple):
    """What is read of every file."""

    rows: pc.Expression
    schema: pa.Schema
    """Of the table, with LATER_COLUMNS. A file need not have the columns that partition the table: their
    values are those of the log."""


def copy_split(files: pads.Dataset, split: str, folder: Path, *, max_bytes: int | None = None) -> None:
    """Fill `folder`, which may hold what an earlier call left, with the arrays of `split`.

    Raises ValueError if its sequence ids have gaps or a row contradicts itself, OSError if the disk is too
    small.
    """
    chosen = _Chosen(pc.field("split") == split, add_later_columns(files.schema))
    fragments = list(files.get_fragments(filter=chosen.rows))
    done = folder / "done"
    rows = _read_ids(fragments, chosen, split)
    if not (folder / "laid_out").exists():
        # Left by a copy that was killed at its end. The arrays are made again, and hold none of these files.
        done.unlink(missing_ok=True)
        _read_sizes(fragments, chosen, rows, folder, max_bytes)
    arrays = FlatArrays(folder)
    finished = set(done.read_text().splitlines()) if done.exists() else set()

    def copy_file(fragment: pads.Fragment) -> None:
        for batch in _read(fragment, VALUE_COLUMNS, chosen):
            arrays.put(require_consistent(_flatten(batch, rows)))

    left = [fragment for fragment in fragments if fragment.path not in finished]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for fragment, _ in zip(left, pool.map(copy_file, left), strict=True):
            arrays.flush()  # before the note: a copy that was killed then has the values of every file noted
            with done.open("a") as notes:
                notes.write(f"{fragment.path}\n")
    (folder / "laid_out").unlink()
    done.unlink(missing_ok=True)


def _read_ids(fragments: list[pads.Fragment], chosen: _Chosen, split: str) -> _Rows:
    """The number of each row, and the sources. Memory: 24 bytes for each run of ids, mostly a file."""

    def read_ids(fragment: pads.Fragment) -> tuple[Runs, set[str]]:
        runs, sources = list[Runs](), set[str]()
        for batch in _read(fragment, ID_COLUMNS, chosen):
            runs.append(find_id_runs(batch["sequence_id"].to_numpy()))
            runs = [join_runs(runs)] if len(runs) == JOINED_BATCHES else runs
            sources.update(pc.unique(batch["source"]).to_pylist())
        return join_runs(runs), sources

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(read_ids, fragments))
    numbers = number_rows((runs for runs, _ in found), split)
    names = sorted(set().union(*(sources for _, sources in found)))
    return _Rows(numbers, pa.array(names, pa.string()))


def _read_sizes(
    fragments: list[pads.Fragment], chosen: _Chosen, rows: _Rows, folder: Path, max_bytes: int | None
) -> None:
    """The index of the split, and empty arrays of the right sizes."""
    num_rows = rows.numbers.num_rows
    index = create_index(folder, num_rows)

    def read_sizes(fragment: pads.Fragment) -> None:
        for batch in _read(fragment, SIZE_COLUMNS, chosen):
            places = rows.numbers.find_rows(batch["sequence_id"].to_numpy())
            index.num_tokens[places] = batch["num_tokens"].to_numpy()
            index.num_segments[places] = pc.list_value_length(batch["segments"]).to_numpy()
            index.num_classes[places] = _count_classes(batch)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for _ in pool.map(read_sizes, fragments):
            pass
    num_tokens, num_segments, num_classes = (int(sizes.sum(dtype=np.int64)) for sizes in index)
    num_bytes = int(DISK_MARGIN * (5 * num_tokens + 4 * (num_segments + num_classes) + 64 * num_rows))
    _require_space(folder, num_tokens, num_bytes, max_bytes)
    lay_out(folder, index)
    write_source_names(folder, rows.sources.to_pylist())
    (folder / "laid_out").touch()


def _require_space(folder: Path, num_tokens: int, num_bytes: int, max_bytes: int | None) -> None:
    room = make_room(folder.parent, num_bytes, max_bytes=max_bytes)
    if num_bytes > room:
        limit = "" if max_bytes is None else f" of the {max_bytes / 1e9:,.1f} GB of finetune.max_copies_gb"
        raise OSError(
            errno.ENOSPC,
            f"a local copy of {num_tokens:,} tokens takes {num_bytes / 1e9:,.1f} GB, and {folder.parent} has "
            f"{max(0, room) / 1e9:,.1f} GB{limit} free beside the copies in use; set DISTRIBUTARY_CACHE to a "
            f"larger disk on {os.uname().nodename}{' or raise the limit' if limit else ''}",
        )


def _read(fragment: pads.Fragment, columns: list[str], chosen: _Chosen) -> Iterator[pa.RecordBatch]:
    # One row group after the other: Arrow's read-ahead would hold the whole file. Several files are read at a
    # time instead.
    rows, schema = chosen
    for group in fragment.split_by_row_group(rows, schema=schema):
        yield from group.to_batches(
            columns=columns,
            filter=rows,
            schema=schema,
            batch_size=BATCH_ROWS,
            batch_readahead=1,
            use_threads=False,
        )


def _flatten(batch: pa.RecordBatch, rows: _Rows) -> FlatRows:
    """Arrow's own buffers as NumPy arrays: no Python step per row."""
    num_tokens = batch["num_tokens"].to_numpy().astype(np.int64)
    runs = batch["targets"].flatten()
    # A run's place in its row, then its place among all tokens of the batch.
    row_starts = np.repeat(
        np.cumsum(num_tokens) - num_tokens, pc.list_value_length(batch["targets"]).to_numpy()
    )
    is_target = mark_runs(
        row_starts + _field(runs, "first_token"), _field(runs, "num_tokens"), size=int(num_tokens.sum())
    )
    return FlatRows(
        ids=rows.numbers.find_rows(batch["sequence_id"].to_numpy()),
        num_tokens=num_tokens,
        num_segments=pc.list_value_length(batch["segments"]).to_numpy(),
        tokens=batch["input_ids"].flatten().to_numpy(),
        is_target=is_target,
        segment_lengths=_field(batch["segments"].flatten(), "num_tokens"),
        num_classes=_count_classes(batch),
        classes=batch["labels"].flatten().to_numpy(),
        labels=_read_labels(batch),
        num_targets=batch["num_targets"].to_numpy(),
        num_bytes=batch["num_bytes"].to_numpy(),
        source_codes=pc.index_in(batch["source"], rows.sources).to_numpy(),
    )


def _count_classes(batch: pa.RecordBatch) -> np.ndarray:
    """(num_rows,) sizes of the sets of classes; 0 where there is none."""
    return pc.list_value_length(batch["labels"]).fill_null(0).to_numpy(zero_copy_only=False)


def _read_labels(batch: pa.RecordBatch) -> np.ndarray:
    labels = batch["label"].fill_null(NO_LABEL).to_numpy(zero_copy_only=False)
    return np.where(batch["labels"].is_valid().to_numpy(zero_copy_only=False), LABEL_SET, labels)


def _field(structs: pa.StructArray, name: str) -> np.ndarray:
    return pc.struct_field(structs, name).to_numpy(zero_copy_only=False)
