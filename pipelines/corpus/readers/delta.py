"""A Delta table at one version: one record per row, read from the Parquet files that the version holds.

The version is the newest one when the files are listed, or options.version; the manifest keeps it. The log is
read without a JVM. Columns of partitions are fields too: their values stand in the names of the folders.
Tables whose files do not say all (deletion vectors, column mapping) are refused.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote

from pipelines.corpus.readers import parquet
from pipelines.corpus.readers.format import Extent, Format, Record, Request, Slice, SourceFile, cut_by_size

if TYPE_CHECKING:
    from deltalake import DeltaTable

_NULL = "__HIVE_DEFAULT_PARTITION__"
_REFUSED = {
    "deletionVectors": "deletion vectors; rewrite it with REORG TABLE ... APPLY (PURGE) and drop the feature",
    "columnMapping": "column mapping; copy it to a table without delta.columnMapping.mode",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    version: int | None = None
    """Version of the table; null = the newest one."""

    def __post_init__(self) -> None:
        known = self.version is None or (type(self.version) is int and self.version >= 0)
        if not known:
            raise ValueError(f"version must be null or a number from 0 on, got {self.version!r}")


def pin(path: str, options: Options) -> Options:
    """The options with the version of the table as it is now."""
    return replace(options, version=int(_open(path, options).version()))


def find(path: str, options: Options) -> list[SourceFile]:
    """The files of the version. Raises FileNotFoundError without a table, ValueError for one that cannot be
    read file by file."""
    import pyarrow as pa

    from pipelines.storage import locate

    table = _open(path, options)
    protocol, configuration = table.protocol(), table.metadata().configuration
    features = set(protocol.reader_features or ())
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    if refused := [why for feature, why in _REFUSED.items() if feature in features]:
        raise ValueError(f"the Delta table at {path} uses {refused[0]}")
    root = locate(path)[1].rstrip("/")
    found = []
    for row in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        name, modified_ns = unquote(row["path"]), row["modification_time"] * 10**6
        found.append(
            SourceFile(path=f"{root}/{name}", relative=name, size=row["size_bytes"], modified_ns=modified_ns)
        )
    return found


def _open(path: str, options: Options) -> "DeltaTable":
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    from pipelines.paths import without_credentials
    from pipelines.repeating import repeat_on_hdfs
    from pipelines.stores import delta_options

    at, more = without_credentials(path), delta_options(path)
    try:
        return repeat_on_hdfs(path, lambda: DeltaTable(path, version=options.version, storage_options=more))
    except TableNotFoundError:
        raise FileNotFoundError(f"no Delta table at {at}; correct the path") from None
    except DeltaError as error:
        raise ValueError(f"the Delta table at {at} cannot be read: {error}; choose another version") from None


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The rows of the row groups that start in the slice."""
    folders = read_partition(part.path)
    inside = tuple(name for name in request.names if name not in folders)
    values = {name: folders[name] for name in request.names if name in folders}
    records = parquet.read(stream, part, request._replace(names=inside))
    while True:
        try:
            record = next(records)
        except StopIteration as end:
            return end.value
        yield record if record.values is None else record._replace(values={**record.values, **values})


def read_partition(path: str) -> dict[str, str | None]:
    """The values in the names of the folders of a file, as text."""
    pairs = (name.split("=", 1) for name in path.split("/")[:-1] if "=" in name)
    return {unquote(name): None if value == _NULL else unquote(value) for name, value in pairs}


FORMAT = Format(read=read, cut=cut_by_size, find=find, pin=pin, options=Options)
