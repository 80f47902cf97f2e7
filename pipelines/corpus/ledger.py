"""The ledger: the files that a version of the documents table was made from; and what has happened since.

The ledger is a table of its own. A commit of it carries the fingerprint of the commit of documents that was
made from its files, so both are found together, whichever of them a killed run has written.

This module imports neither Spark nor delta-rs: a plan compares the ledger with the folder before there is a
JVM. Cost: about 200 bytes a file on the driver, and one hash join.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.manifest import Manifest, make_manifest
from pipelines.corpus.source import Source

ENTRIES = pa.schema(
    [("source", pa.string()), ("file", pa.string()), ("size", pa.int64()), ("modified_ns", pa.int64())]
)
"""Columns of the ledger that say which files there were."""
_NUM_NAMED = 5
"""Files that a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """Files now, compared with those of the ledger. Each part has the columns of `Manifest.files`."""

    new: pa.Table
    changed: pa.Table
    """Size or time is another one."""
    deleted: pa.Table
    names: Sequence[str] = field(default=())
    """Of the sources, by number."""

    @property
    def keep_documents(self) -> bool:
        """Whether the documents of all files of before are still right."""
        return not (self.changed.num_rows or self.deleted.num_rows)

    def describe(self) -> str:
        """What changed, with the names of the first files of each kind."""
        parts = []
        for kind, files in (("changed", self.changed), ("disappeared", self.deleted)):
            if files.num_rows:
                first = files.slice(0, _NUM_NAMED).to_pylist()
                named = ", ".join(f"{self.names[row['source']]}: {row['file']}" for row in first)
                more = f" and {files.num_rows - _NUM_NAMED:,} more" if files.num_rows > _NUM_NAMED else ""
                noun = "file" if files.num_rows == 1 else "files"
                parts.append(f"{files.num_rows:,} {noun} {kind} ({named}{more})")
        return "; ".join(parts)


def make_entries(manifest: Manifest, names: Sequence[str]) -> pa.Table:
    """The rows of the ledger for the files of a manifest (ENTRIES)."""
    files = manifest.files
    named = pa.array(names, pa.string()).take(files["source"].combine_chunks())
    return pa.table([named, files["file"], files["size"], files["modified_ns"]], schema=ENTRIES)


def restore_manifest(entries: pa.Table, sources: Sequence[Source]) -> Manifest | None:
    """The manifest as it was when the ledger was written, without paths; None if the ledger names a source
    that there is no more."""
    numbers = pc.index_in(entries["source"], pa.array([source.name for source in sources], pa.string()))
    if numbers.null_count:
        return None
    paths = pa.nulls(entries.num_rows, pa.string())
    columns = [numbers, paths, entries["file"], entries["size"], entries["modified_ns"]]
    return make_manifest(pa.table(columns, names=["source", "path", "file", "size", "modified_ns"]), sources)


def compare_files(before: Manifest, now: Manifest, sources: Sequence[Source]) -> Changes:
    """Which files of `now` are new or changed since `before`, and which are gone."""
    columns = before.files.schema.names
    known = before.files.drop_columns("path").append_column("known", _flags(before.files.num_rows))
    found = now.files.append_column("found", _flags(now.files.num_rows))
    both = found.join(known, ["source", "file"], join_type="full outer", right_suffix="_before")
    # In the order of a manifest: a join has none.
    both = both.sort_by([("source", "ascending"), ("file", "ascending")])
    is_new, is_gone = pc.is_null(both["known"]), pc.is_null(both["found"])
    is_other = pc.or_(
        pc.not_equal(both["size"], both["size_before"]),
        pc.not_equal(both["modified_ns"], both["modified_ns_before"]),
    )
    return Changes(
        new=both.filter(is_new).select(columns),
        changed=both.filter(pc.fill_null(is_other, False)).select(columns),
        deleted=both.filter(is_gone).select(columns),
        names=[source.name for source in sources],
    )


def _flags(number: int) -> pa.Array:
    return pa.array([True]).take(pa.array([0] * number, pa.int8())) if number else pa.array([], pa.bool_())
