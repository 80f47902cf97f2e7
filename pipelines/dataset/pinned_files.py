"""The Parquet files of one version of a table, for readers without a JVM."""

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipelines.pin import TableLog, open_log
from pipelines.storage import locate
from pipelines.stores import delta_options

NUM_THREADS = 16
"""Files opened at a time: a question reads little of each, so most of the time is the store's latency."""

LATER_COLUMNS = pa.schema([("labels", pa.list_(pa.int32()))])
"""Columns of sequences that an earlier Distributary did not write. Where they are missing, rows have null."""

UNREADABLE = re.compile(r"Unsupported|Column mapping|Invalid protocol")
"""In what delta-rs says of a table with a feature that it does not know or that is set wrongly."""


class PinnedFile(NamedTuple):
    """One file of a table version; its range of ids is that of the log."""

    path: str
    """As the file system of the table knows it."""
    num_rows: int
    first_id: int
    """Smallest sequence_id; 0 if the log does not say it."""
    last_id: int
    """Largest sequence_id; 2**63 - 1 if the log does not say it."""


def open_pinned(
    path: str, *, table_id: str, version: int, table: str = "sequences", stage: str = "dataset"
) -> DeltaTable:
    """The table at `path` at the pinned version.

    Raises FileNotFoundError if the version is gone, ValueError if another table is there, or one with unknown
    features.
    """
    try:
        pinned = DeltaTable(path, version=version, storage_options=delta_options(path))
    except DeltaError as error:
        if UNREADABLE.search(str(error)):
            raise _make_feature_error(path, str(error)) from error
        raise FileNotFoundError(
            f"{table} at {path} no longer have version {version} ({error}); run the {stage} stage again"
        ) from error
    if str(pinned.metadata().id) != table_id:
        raise ValueError(
            f"{table} at {path} were deleted and written again (table id {pinned.metadata().id}, pinned "
            f"{table_id}); run the {stage} stage and the stages after it again"
        )
    return pinned


def open_version(place: str, version: int) -> TableLog | None:
    """The log of a table up to `version`; None if there is no table, or it no longer has the version."""
    try:
        return open_log(place, version=version)
    except DeltaError:
        return None


def require_columns(path: str, version: int, present: Iterable[str], needed: Iterable[str]) -> None:
    """Raises ValueError if sequences lack one of the columns: an earlier Distributary wrote them."""
    missing = sorted({*needed}.difference(present))
    if missing:
        raise ValueError(
            f"version {version} of the sequences at {path} has no column {', '.join(missing)}, because an "
            "earlier Distributary wrote it; delete or move the table, and run the dataset stage and the "
            "stages after it again"
        )


def add_later_columns(schema: pa.Schema) -> pa.Schema:
    """The schema with all LATER_COLUMNS: Arrow reads nulls where a file does not have them."""
    return pa.schema([*schema, *(field for field in LATER_COLUMNS if field.name not in schema.names)])


def list_columns(pinned: DeltaTable) -> list[str]:
    return [field.name for field in pinned.schema().fields]


def require_plain_files(path: str, pinned: DeltaTable) -> None:
    """Raise ValueError if Arrow alone would read the files wrongly, as with deletion vectors (rows that are
    gone) and column mapping (columns that have other names)."""
    protocol = pinned.protocol()
    if protocol.min_reader_version > 1:
        features = ", ".join(sorted(protocol.reader_features or [])) or "column mapping"
        raise _make_feature_error(path, f"reader version {protocol.min_reader_version}: {features}")


def _make_feature_error(path: str, needs: str) -> ValueError:
    return ValueError(
        f"{path} needs features of Delta that files read without Spark do not have ({needs}); another "
        "program changed the table: delete it, and run the stage that writes it again"
    )


def list_files(path: str, pinned: DeltaTable, *, split: str | None = None) -> list[PinnedFile]:
    """The files with rows of `split` (None = all files), in the order of their first row.

    Raises ValueError if Arrow alone would read them wrongly, see `require_plain_files`.
    """
    require_plain_files(path, pinned)
    files = pa.table(pinned.get_add_actions(flatten=True)).to_pydict()
    nothing = [None] * len(files["path"])
    columns = (files.get(name, nothing) for name in ("num_records", "min.sequence_id", "max.sequence_id"))
    splits = files.get("partition.split", nothing)
    _, root = locate(path)
    found = [
        PinnedFile(
            f"{root.rstrip('/')}/{unquote(name)}",
            num_rows or 0,
            0 if first is None else first,
            2**63 - 1 if last is None else last,
        )
        for name, num_rows, first, last, of in zip(files["path"], *columns, splits, strict=True)
        if split is None or of == split
    ]
    return sorted(found, key=lambda file: (file.first_id, file.path))


def open_parquet(files: pafs.FileSystem, path: str) -> pq.ParquetFile:
    """One file, of which a few columns will be read.

    Raises FileNotFoundError with the remedy if a VACUUM has deleted it.
    """
    try:
        return pq.ParquetFile(files.open_input_file(path), pre_buffer=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is gone: a VACUUM deleted the files of the version that the run was trained from; "
            "distributary tables keeps what runs need"
        ) from error
