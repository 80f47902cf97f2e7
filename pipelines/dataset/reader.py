"""Sequences of a pinned table version for one rank, straight from Delta's Parquet files with Arrow: no JVM.

A split is copied once per machine into flat memory-mapped arrays (tokens end to end, and where each row starts), so any row is
one slice away, memory stays bounded by the page cache, and the ranks of a machine share the copy. The copy is named by table id
and version; a half-made one is never visible.
"""

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipelines.storage import cache_folder

COLUMNS = ("target", "num_targets", "num_bytes")
STALE_SECONDS = 7 * 24 * 3600
NO_LABEL = -100
COPY_NAME = re.compile(r"[0-9a-f-]{36}-\d+-[a-z]+|\.making-\w+")


class Rows(NamedTuple):
    """Some rows of a split, in the order asked for."""

    input_ids: list[np.ndarray]
    """Per row (num_tokens,) int32."""
    is_target: list[np.ndarray]
    """Per row (num_tokens,) bool: tokens that the loss counts."""
    segment_lengths: list[np.ndarray]
    """Per row (num_segments,) int32: tokens of each document's run."""
    labels: np.ndarray
    """(num_rows,) class numbers; NO_LABEL = none."""
    num_targets: np.ndarray
    num_bytes: np.ndarray


def local_copies() -> Path:
    """Where this machine keeps its copies; private to the user."""
    folder = cache_folder() / "sequences"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # an executor's user may have no home
        folder = Path(tempfile.gettempdir()) / f"distributary-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
            raise PermissionError(
                f"{folder} belongs to somebody else; set DISTRIBUTARY_CACHE to a folder of your own"
            ) from None
    return folder


class SequenceReader:
    """Random access to the rows of one split. Rows are numbered by sequence_id."""

    def __init__(self, folder: Path) -> None:
        self._tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        self._starts = np.load(folder / "starts.npy", mmap_mode="r")
        self._columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS}
        self.lengths: np.ndarray = np.load(folder / "num_tokens.npy", mmap_mode="r")
        """(num_rows,) tokens of each row."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_targets(self) -> np.ndarray:
        """(num_rows,) terms each row adds to the loss."""
        return self._columns["num_targets"]

    def rows(self, ids: np.ndarray) -> Rows:
        tokens = [np.asarray(self._tokens[self._starts[i] : self._starts[i + 1]]) for i in ids]
        labels, num_targets, num_bytes = (np.asarray(self._columns[name][ids]) for name in COLUMNS)
        is_target = [
            (np.arange(len(each)) > 0) & (label == NO_LABEL) for each, label in zip(tokens, labels, strict=True)
        ]
        lengths = [np.asarray([len(each)], np.int32) for each in tokens]
        return Rows(tokens, is_target, lengths, labels, num_targets, num_bytes)


def open_split(
    path: str, *, table_id: str, version: int, split: str, copies: Path | None = None
) -> SequenceReader:
    """The rows of `split` at `version`; the first caller on a machine makes the copy, the others wait for it.

    Raises ValueError if the table at `path` is another one than was pinned, or if its sequence ids have gaps.
    """
    home = copies or local_copies()
    target = home / f"{table_id}-{version}-{split}"
    with _locked(target):
        if not target.is_dir():
            _prune(home)
            partial = Path(tempfile.mkdtemp(prefix=".making-", dir=home))
            try:
                _copy(_pinned(path, table_id, version), split, partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        os.utime(target)
        return SequenceReader(target)


def _pinned(path: str, table_id: str, version: int) -> DeltaTable:
    try:
        table = DeltaTable(path, version=version)
    except DeltaError as error:
        raise FileNotFoundError(
            f"sequences at {path} have no version {version} any more ({error}); run the dataset stage again"
        ) from error
    if str(table.metadata().id) != table_id:
        raise ValueError(
            f"sequences at {path} were made anew (table id {table.metadata().id}, pinned {table_id}); "
            "run the dataset stage and the stages below it again"
        )
    return table


def _copy(table: DeltaTable, split: str, folder: Path) -> None:
    dataset = table.to_pyarrow_dataset()
    chosen = pc.field("split") == split
    ids, lengths = [], []
    for batch in dataset.to_batches(columns=["sequence_id", "num_tokens"], filter=chosen):
        ids.append(batch["sequence_id"].to_numpy())
        lengths.append(batch["num_tokens"].to_numpy())
    order = np.concatenate(ids) if ids else np.empty(0, np.int64)
    num_tokens = np.empty(len(order), np.int32)
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ValueError(
            f"sequence_id of split {split} must run from 0 to {len(order) - 1} without gaps; "
            "run the dataset stage again"
        )
    num_tokens[order] = np.concatenate(lengths) if lengths else num_tokens
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(num_tokens, dtype=np.int64)])
    np.save(folder / "num_tokens.npy", num_tokens)
    np.save(folder / "starts.npy", starts)
    tokens = np.lib.format.open_memmap(
        folder / "tokens.npy", mode="w+", dtype=np.int32, shape=(int(starts[-1]),)
    )
    columns = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=np.int64, shape=(len(order),)
        )
        for name in COLUMNS
    }
    for batch in dataset.to_batches(columns=["sequence_id", "input_ids", *COLUMNS], filter=chosen):
        batch_ids = batch["sequence_id"].to_numpy()
        for row, values in zip(batch_ids, batch["input_ids"], strict=True):
            tokens[starts[row] : starts[row + 1]] = values.values.to_numpy()
        for name in COLUMNS:
            columns[name][batch_ids] = batch[name].fill_null(NO_LABEL).to_numpy(zero_copy_only=False)
    tokens.flush()
    for column in columns.values():
        column.flush()


@contextmanager
def _locked(copy: Path) -> Iterator[None]:
    with copy.with_name(f"{copy.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prune(home: Path) -> None:
    """Forget copies nobody opened for a week, and half-made ones."""
    for copy in home.iterdir():
        if COPY_NAME.fullmatch(copy.name) and not copy.is_symlink() and _is_stale(copy):
            if copy.name.startswith("."):
                shutil.rmtree(copy, ignore_errors=True)
                continue
            with _locked(copy):
                if _is_stale(copy):  # nobody opened it while we waited
                    shutil.rmtree(copy, ignore_errors=True)


def _is_stale(copy: Path) -> bool:
    return copy.is_dir() and time.time() - copy.stat().st_mtime > STALE_SECONDS
