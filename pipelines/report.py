"""What the reports of all stages share: the version of a table that one is about, and its files.

A report is a page (HTML) and what it counts (JSON beside it). Both name version and digest of the table that
they are about, so a program finds out whether they still are, and whether they belong together.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from pipelines.markup import describe
from pipelines.pin import Pin, open_log
from pipelines.storage import Folder, locate


@dataclass(frozen=True, kw_only=True, slots=True)
class TableVersion:
    """A table as the report has read it."""

    name: str
    version: int
    digest: str
    num_rows: int
    written: str
    """Time of the commit, UTC; empty = the log does not say."""

    @property
    def properties(self) -> dict[str, str]:
        """What the page says of it to programs."""
        return {"version": str(self.version), "digest": self.digest}


def find_version(place: str, made_from: str | None = None) -> tuple[Pin, TableVersion] | None:
    """The newest rows of the table; None if there is none, or it was made from something else."""
    log = open_log(place)
    found = log.pin() if log else None
    if log is None or found is None or made_from not in (None, found.fingerprint):
        return None
    written = _format_time((log.source.read_commit(found.version) or {}).get("timestamp"))
    return found, TableVersion(
        name=found.table, version=found.version, digest=found.digest, num_rows=found.num_rows, written=written
    )


def _format_time(value: Any) -> str:
    """Milliseconds since 1970 of a log file, or what Spark says of the table's history."""
    moment = datetime.fromtimestamp(value / 1000, UTC) if isinstance(value, int) else value
    return moment.strftime("%Y-%m-%d %H:%M UTC") if isinstance(moment, datetime) else ""


class Report(NamedTuple):
    """A page, and what it counts as JSON."""

    page: str
    numbers: str


def split_place(place: str) -> tuple[Folder, str]:
    """Folder and name of a file. Raises ValueError for a place without a name, or with options of a store."""
    folder, _, name = place.rpartition("/")
    if not name or "?" in place:
        raise ValueError(f"a report is one file, such as FOLDER/report.html; got {place}")
    # The root of a disk, or of a store (dbfs:/report.html).
    return Folder(f"{folder}/" if not folder or folder.endswith(":") else folder), name


def require_file(place: str, table: str) -> None:
    """Raises ValueError if a folder is at this place or at that of the numbers, or a file that is not of a
    report about `table` would be replaced by the numbers."""
    folder, name = split_place(place)
    if _is_folder(place):
        raise ValueError(f"{place} is a folder; give the name of a file, such as {place}/report.html")
    numbers = name_numbers(place)
    beside = f"the numbers of the page {name} are written there; give the page another name"
    if _is_folder(numbers):
        raise ValueError(f"{numbers} is a folder; {beside}")
    try:
        found = folder.read(name_numbers(name))
    except FileNotFoundError:
        return
    if f"{table}_digest" not in parse_numbers(found.decode("utf-8", "replace")):
        raise ValueError(
            f"{numbers} is not of a report about {table}: it has no {table}_digest; {beside}, or move it away"
        )


def _is_folder(place: str) -> bool:
    files, path = locate(place)
    return bool(files.get_file_info(path).type == pafs.FileType.Directory)


def name_numbers(name: str) -> str:
    """report.html -> report.json; a name with another end gets .json behind it."""
    return f"{name.removesuffix('.html')}.json"


def write_report(place: str, page: str, numbers: str) -> None:
    """Each file appears completely or not at all; the page last, so a page has its numbers."""
    folder, name = split_place(place)
    folder.write(name_numbers(name), numbers.encode())
    folder.write(name, page.encode())


def read_report(place: str, about: Pin) -> Report | None:
    """The report at `place`; None if one of its files is missing or about another version."""
    folder, name = split_place(place)
    try:
        page, numbers = (folder.read(each).decode("utf-8", "replace") for each in (name, name_numbers(name)))
    except FileNotFoundError:
        return None
    properties = {"version": str(about.version), "digest": about.digest}
    is_current = describe(properties) in page and are_about(numbers, about)
    return Report(page, numbers) if is_current else None


def name_version(table: TableVersion) -> dict[str, Any]:
    """The keys of the numbers that say what they are about."""
    return {f"{table.name}_version": table.version, f"{table.name}_digest": table.digest}


def are_about(numbers: str, about: Pin) -> bool:
    """Whether the JSON is of a report about these rows."""
    value = parse_numbers(numbers)
    own = (about.version, about.digest)
    return (value.get(f"{about.table}_version"), value.get(f"{about.table}_digest")) == own


def format_numbers(value: Mapping[str, Any]) -> str:
    """JSON with a key, or an item of a list, a line: people can read it, and versions can be compared."""
    lines = []
    for key, item in value.items():
        if isinstance(item, list) and item:
            items = ",\n".join(f"    {json.dumps(each, ensure_ascii=False)}" for each in item)
            lines.append(f"  {json.dumps(key)}: [\n{items}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(item, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def parse_numbers(numbers: str) -> dict[str, Any]:
    """Empty where it is no JSON object."""
    try:
        value = json.loads(numbers)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
