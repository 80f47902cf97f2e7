"""The manifest: every file of every source, listed once, as an Arrow table.

The plan makes its fingerprint of it, and the executors get their slices from it. A table needs 100 to 200
bytes a file on the driver, mostly for the names; a Python object a file would need 1.5 kB.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.listing import NoFilesError, list_files, pin_options
from pipelines.corpus.readers.format import SourceFile
from pipelines.corpus.source import Source

if TYPE_CHECKING:
    from pipelines.corpus.screens import Screens

_SCHEMA = pa.schema(
    [
        ("source", pa.int32()),
        ("path", pa.string()),
        ("file", pa.string()),
        ("size", pa.int64()),
        ("modified_ns", pa.int64()),
    ]
)
_BATCH_ROWS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The files of all sources, by source and name."""

    files: pa.Table
    """Columns: source (its number), path, file (name below the root of the source), size, modified_ns."""
    digest: str
    """Of the names, sizes and times; with screens, of what these are, too."""
    num_files: dict[str, int]
    """By source."""
    versions: dict[str, int] = field(default_factory=dict)
    """Of the sources that are tables: the version that the files belong to."""
    screens: "Screens | None" = None
    """What the texts are compared with; None = nothing."""

    @property
    def num_bytes(self) -> int:
        return pc.sum(self.files["size"]).as_py() or 0

    def iterate(self) -> Iterator[tuple[int, SourceFile]]:
        """(number of the source, file), without keeping an object a file."""
        for batch in self.files.to_batches(max_chunksize=_BATCH_ROWS):
            columns = (column.to_pylist() for column in batch.columns)
            for source, path, file, size, modified_ns in zip(*columns, strict=True):
                yield source, SourceFile(path=path, relative=file, size=size, modified_ns=modified_ns)


def list_sources(sources: Sequence[Source], *, may_be_empty: bool = False) -> Manifest:
    """The files of the sources. Errors as in `list_files`; `may_be_empty`: a source may have no file now."""
    batches, versions = list[pa.RecordBatch](), dict[str, int]()
    for number, source in enumerate(sources):
        options = pin_options(source)
        if source.reader.pin is not None:
            versions[source.name] = options.version
        try:
            batches += _make_batches(number, list_files(source, options))
        except NoFilesError:
            if not may_be_empty:
                raise
    return make_manifest(pa.Table.from_batches(batches, _SCHEMA), sources, versions)


def make_manifest(
    files: pa.Table, sources: Sequence[Source], versions: Mapping[str, int] | None = None
) -> Manifest:
    """The manifest of these files, whatever their order: columns as in `Manifest.files`."""
    ordered = files.cast(_SCHEMA).sort_by([("source", "ascending"), ("file", "ascending")])
    total, num_files = hashlib.sha256(), dict[str, int]()
    for number, source in enumerate(sources):
        own = ordered.filter(pc.equal(ordered["source"], number))
        num_files[source.name] = own.num_rows
        total.update(f"{number}\0{own.num_rows}\n".encode())
        for batch in own.select(["file", "size", "modified_ns"]).to_batches(max_chunksize=_BATCH_ROWS):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                total.update("{}\0{}\0{}\n".format(*row).encode())
    return Manifest(
        files=ordered, digest=total.hexdigest()[:32], num_files=num_files, versions=dict(versions or {})
    )


def _make_batches(number: int, found: Iterable[SourceFile]) -> Iterator[pa.RecordBatch]:
    files = iter(found)
    while some := list(islice(files, _BATCH_ROWS)):
        rows = [(number, file.path, file.relative, file.size, file.modified_ns) for file in some]
        columns = zip(*rows, strict=True)
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, _SCHEMA, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)
