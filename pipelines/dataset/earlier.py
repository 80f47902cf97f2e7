"""Sequences that were built before from the same documents table with the same settings. No Spark here.

Whether only some groups have to be built again is a question to the logs of two tables: which files of the
documents are new or gone, and which files of the sequences hold the groups that these touch.
"""

import sys
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.dataset.layout import POSITION_BITS
from pipelines.dataset.pinned_files import open_version
from pipelines.pin import FileSource, Pin, TableLog, open_log
from pipelines.storage import locate

CUT_NAME_END = "\ufffd"
Places = Mapping[str, Collection[str] | None]
"""Source -> names of its files; None = all of them."""


class FullBuildNeededError(Exception):
    """All documents must be packed again, for the reason that the message says."""


class Inputs(NamedTuple):
    """What sequences are built from."""

    documents: Pin
    settings: str
    """Fingerprint of all settings that the tokens depend on."""


class Bounds(NamedTuple):
    """Smallest and largest (source, file) of the rows of a file, each alone; None = the log does not say."""

    sources: tuple[str, str] | None
    files: tuple[str, str] | None

    def may_hold(self, source: str, files: Sequence[str] | None) -> bool:
        """Whether a row may be of the source and of one of its `files`, ascending; None = of any of them."""
        if self.sources is not None and not self.sources[0] <= source <= self.sources[1]:
            return False
        if self.files is None or files is None:
            return True
        first, last = self.files
        place = bisect_left(files, first)
        return place < len(files) and files[place] <= last


class ChangedFiles(NamedTuple):
    """Files of a documents table of two versions, relative to its folder."""

    folder: str
    unchanged: list[str]
    removed: list[str]
    added: list[str]
    bounds: Mapping[str, Bounds]
    """Of those in the later version."""

    def find_places(self, places: Places) -> list[str]:
        """Files of the later version that may hold rows of these places, in the order of their names.

        Cost: files x sources x log(names), as a table may have many of all three."""
        ordered = {source: None if files is None else sorted(files) for source, files in places.items()}
        return sorted(
            name
            for name, bounds in self.bounds.items()
            if any(bounds.may_hold(source, files) for source, files in ordered.items())
        )


def find_earlier(path: str, inputs: Inputs) -> Pin | None:
    """The newest rows of the sequences table at `path`, if they were built with these settings from an
    earlier version of the same documents table, or from the same one; else None."""
    log = open_log(path)
    pin = None if log is None else log.pin()
    if pin is None or pin.facts.get("settings") != inputs.settings:
        return None
    built_from = pin.facts["documents"]
    same = built_from["table_id"] == inputs.documents.table_id
    return pin if same and built_from["version"] <= inputs.documents.version else None


def find_changed_files(earlier: Pin, documents: Pin) -> ChangedFiles:
    """What happened to the files of the documents since sequences were built from them.

    Raises FullBuildNeededError if the log or the files of that version are gone, or if Delta's own reader is
    needed for them.
    """
    version = earlier.facts["documents"]["version"]
    logs = [open_version(documents.path, each) for each in (version, documents.version)]
    if logs[0] is None or logs[1] is None:
        raise FullBuildNeededError(f"the log of documents version {version} is gone")
    folder, names = logs[0].folder, [log.list_plain_shards(sys.maxsize) for log in logs if log is not None]
    if folder is None or names[0] is None or names[1] is None:
        raise FullBuildNeededError("the files of the documents table need Delta's own reader")
    old, new = set(names[0]), set(names[1])
    removed = sorted(old - new)
    if gone := _find_gone(folder, removed):
        raise FullBuildNeededError(f"files of documents version {version} were deleted, such as {gone[0]}")
    return ChangedFiles(folder, sorted(old & new), removed, sorted(new - old), _list_bounds(logs[1]))


def find_shards(log: TableLog, groups: Collection[int], known: Collection[int]) -> list[str]:
    """Files of the sequences, as the log names them, that hold the `groups`, and nothing else.

    Raises FullBuildNeededError if one holds other groups too, or a group that is not one of the `known`: all
    that the table was laid out in.
    """
    assert isinstance(log.source, FileSource), "its sequences are found by `find_earlier`"
    files = pa.table(log.source.table.get_add_actions(flatten=True)).to_pydict()
    nothing = [None] * len(files["path"])
    wanted, all_groups, found = set(groups), set(known), []
    ranges = (files.get(f"{end}.sequence_id", nothing) for end in ("min", "max"))
    for name, lowest, highest in zip(files["path"], *ranges, strict=True):
        if lowest is None or lowest >> POSITION_BITS != highest >> POSITION_BITS:
            raise FullBuildNeededError("another program has moved sequences of several groups into one file")
        if lowest >> POSITION_BITS not in all_groups:
            raise FullBuildNeededError("the sequences table has groups that its documents do not give now")
        if lowest >> POSITION_BITS in wanted:
            found.append(name)
    return found


def require_measured(log: TableLog, shards: Collection[str], num_rows: Mapping[str | None, int]) -> None:
    """Raises FullBuildNeededError if the rows of each split that were read from the shards are not all rows
    with their split: files of another program may lack the column that partitions the table."""
    noted = log.list_shards()
    if None in num_rows or sum(num_rows.values()) != sum(noted[name] or 0 for name in shards):
        raise FullBuildNeededError(
            "another program has written files of the sequences that are not as ours: their rows lack "
            "`split`, or are not as many as the log says"
        )


def add_counts(
    before: Mapping[str, Mapping[str, int]],
    added: Mapping[str, Mapping[str, int]],
    removed: Mapping[str, Mapping[str, int]],
) -> dict[str, dict[str, int]]:
    """Counts of the splits after some sequences were replaced; a split without sequences is left out."""
    nothing: Mapping[str, int] = {}
    names = dict.fromkeys(name for counts in (before, added) for of in counts.values() for name in of)
    totals = {
        split: {
            name: before.get(split, nothing).get(name, 0)
            + added.get(split, nothing).get(name, 0)
            - removed.get(split, nothing).get(name, 0)
            for name in names
        }
        for split in sorted({*before, *added})
    }
    return {split: counts for split, counts in totals.items() if counts["sequences"]}


def _list_bounds(log: TableLog) -> dict[str, Bounds]:
    assert isinstance(log.source, FileSource), "it has plain shards"
    files = pa.table(log.source.table.get_add_actions(flatten=True)).to_pydict()
    nothing = [None] * len(files["path"])
    columns = (files.get(f"{end}.{name}", nothing) for name in ("source", "file") for end in ("min", "max"))
    return {
        name: Bounds(_pair(*ends[:2]), _pair(*ends[2:]))
        for name, *ends in zip(files["path"], *columns, strict=True)
    }


def _pair(low: str | None, high: str | None) -> tuple[str, str] | None:
    if low is None or high is None:
        return None
    # An earlier Delta cut long names and put U+FFFD at their end as an upper bound, but characters beyond
    # U+FFFF are larger.
    return None if CUT_NAME_END in high else (low, high)


def _find_gone(folder: str, names: Collection[str]) -> list[str]:
    files, root = locate(folder)
    found = files.get_file_info([f"{root.rstrip('/')}/{name}" for name in names])
    return [info.path for info in found if info.type != pafs.FileType.File]
