"""Which files of a table are kept: those of the newest version and of every version that something names.

Tables keep 365 days of files for Spark's own VACUUM, which knows nothing of pins; a table that is rebuilt
every day would keep every rebuild. `delete_unpinned` deletes by pins instead of by age.
"""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from deltalake import DeltaTable

from pipelines.paths import is_table_name
from pipelines.pin import TableLog, open_log
from pipelines.repeating import repeat_on_hdfs
from pipelines.storage import locate
from pipelines.stores import delta_options

MIN_AGE_HOURS = 7 * 24
"""A reader, or a write that is not committed yet, may still need younger files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSize:
    """What a table takes, in files of rows; the log is not counted."""

    num_rows: int
    num_bytes: int
    """Of the newest version."""
    num_bytes_stored: int
    """Of all files in the folder of the table."""
    unneeded: tuple[str, ...]
    """Paths of the files that `delete_unpinned` would delete."""
    num_bytes_unneeded: int


def measure_table(path: str, *, keep: Collection[int], min_age_hours: int = MIN_AGE_HOURS) -> TableSize:
    """Sizes of the table at `path`; `keep`, `min_age_hours` and errors as in `delete_unpinned`.

    Lists the folder, and holds one name and number a file.
    """
    unneeded = delete_unpinned(path, keep=keep, min_age_hours=min_age_hours, dry_run=True)
    files = pa.table(_open_files(path).get_add_actions(flatten=True))
    sizes = _list_sizes(path)
    return TableSize(
        num_rows=pc.sum(files.column("num_records")).as_py() or 0,
        num_bytes=pc.sum(files.column("size_bytes")).as_py() or 0,
        num_bytes_stored=sum(sizes.values()),
        unneeded=tuple(unneeded),
        num_bytes_unneeded=sum(sizes.get(file, 0) for file in unneeded),
    )


def delete_unpinned(
    path: str, *, keep: Collection[int], min_age_hours: int = MIN_AGE_HOURS, dry_run: bool = False
) -> list[str]:
    """Delete the files of the table at `path` that neither the newest version nor a version in `keep` holds,
    and those that no version ever held, such as the files of a killed write. Returns their paths.

    Files younger than `min_age_hours` stay: those that a version lost, and those that none had. Versions
    that are neither kept nor newest can no longer be read afterwards. The log keeps their digests.

    `keep` must name every version that a run, a model or a later table was made from; the command
    `distributary tables` finds them. Raises FileNotFoundError if there is no table, ValueError for a version
    that the table never had, or for a table of a catalog, whose files the catalog deletes.
    """
    log = _require_log(path)
    unknown = sorted(version for version in keep if not 0 <= version <= log.version)
    if unknown:
        raise ValueError(f"keep names versions {unknown}, but {path} has versions 0 to {log.version}")
    return list(
        _open_files(path).vacuum(
            retention_hours=min_age_hours,
            enforce_retention_duration=False,
            full=True,
            keep_versions=sorted(keep),
            dry_run=dry_run,
        )
    )


def list_values(path: str, column: str) -> range:
    """From the smallest to the largest value of a column of whole numbers, by the statistics of the files of
    the newest version; no row is read. Empty if the table has no rows."""
    files = pa.table(_open_files(path).get_add_actions(flatten=True))
    if not files.num_rows or f"min.{column}" not in files.schema.names:
        return range(0)
    lowest, highest = pc.min(files.column(f"min.{column}")), pc.max(files.column(f"max.{column}"))
    return range(lowest.as_py(), highest.as_py() + 1)


def _require_log(path: str) -> TableLog:
    if is_table_name(path):
        raise ValueError(f"{path} belongs to a catalog; run there: VACUUM {path}")
    log = open_log(path)
    if log is None:
        raise FileNotFoundError(f"no table at {path}")
    return log


def _open_files(path: str) -> DeltaTable:
    return repeat_on_hdfs(path, lambda: DeltaTable(path, storage_options=delta_options(path)))


def _list_sizes(path: str) -> dict[str, int]:
    """Bytes of each file of rows, by its path relative to the table."""
    files, root = locate(path)
    found = files.get_file_info(pafs.FileSelector(root, recursive=True))
    sizes = {
        info.path.removeprefix(f"{root.rstrip('/')}/"): int(info.size or 0)
        for info in found
        if info.type == pafs.FileType.File
    }
    return {name: size for name, size in sizes.items() if not name.startswith("_delta_log/")}
