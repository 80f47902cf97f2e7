"""The tables of a configuration: what needs their versions, what they take, and the deletion of the rest."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.shell.display import console
from jobs.shell.redaction import redact
from pipelines.paths import is_table_name
from pipelines.pin import Pin, TableLog, open_log
from pipelines.registry.runs.lineage import list_inputs
from pipelines.registry.store import connect
from pipelines.retention import delete_unpinned, list_values, measure_table
from pipelines.stores import configure

BESIDE = (
    "quarantine",
    "ledger",
    "signals",
    "word_matches",
    "contamination",
    "removed_paragraphs",
    "duplicates",
)
"""Written with the documents: a version belongs to the documents that carry the same fingerprint."""
GROWING = ("signatures", "similarities")
"""Rows are only added, and none is looked for by version."""
TABLES = {
    "documents": "corpus",
    **dict.fromkeys((*BESIDE, *GROWING), "corpus"),
    "sequences": "dataset",
    "mixtures": "finetune",
    "predictions": "scoring",
}
"""Table -> the stage that writes it."""
ALWAYS_SHOWN = ("documents", "quarantine", "sequences", "predictions")
"""The others exist only where the configuration asks for them."""
MAX_SHOWN = 3

Needs = dict[int, list[str]]
"""Version -> what needs it."""


def show(configs: Mapping[str, Any], *, delete: bool, min_age_hours: int) -> None:
    """Print every table; `delete` what nothing needs."""
    tracking = configs["registry"].tracking
    configure(configs["corpus"].storage)
    connect(tracking.uri, tracking.artifacts)
    places = {name: str(getattr(configs[stage], name)) for name, stage in TABLES.items()}
    needs = find_needs(places, list_inputs())
    for name, place in places.items():
        if name not in ALWAYS_SHOWN and open_log(place) is None:
            continue
        for line in describe(name, place, needs[name], delete=delete, min_age_hours=min_age_hours):
            console.print(redact(line), markup=False)


def find_needs(places: Mapping[str, str], inputs: Iterator[dict[str, Any]]) -> dict[str, Needs]:
    """What needs the versions of each table that exists: runs, and the tables that were made from it.

    `inputs`: what `lineage.list_inputs` gives. A table that was deleted and created again has another id, so
    what was made from the one before does not count.
    """
    logs = {name: open_log(place) for name, place in places.items()}
    needs: dict[str, Needs] = {name: {} for name in places}
    ids = {log.source.table_id: name for name, log in logs.items() if log is not None}
    for pinned in inputs:
        _note(needs, ids.get(pinned["table_id"]), pinned["version"], f"run {pinned['run_id'][:8]}")
    if log := logs["documents"]:
        _note_beside(needs, logs, log.pin())
    if log := logs["sequences"]:
        for pin in (log.pin(), *(log.read_pin(version) for version in sorted(needs["sequences"]))):
            source = {} if pin is None else pin.facts.get("documents", {})
            what = "" if pin is None else f"sequences version {pin.version}"
            _note(needs, ids.get(source.get("table_id", "")), source.get("version", -1), what)
    if logs["predictions"] and not is_table_name(places["predictions"]) and (log := logs["documents"]):
        for version in list_values(places["predictions"], "documents_version"):
            if version <= log.version:
                _note(needs, "documents", version, "predictions")
    return needs


def _note_beside(needs: dict[str, Needs], logs: Mapping[str, TableLog | None], documents: Pin | None) -> None:
    """What was written with the newest documents: the next increment and the report look for it. A run that
    stopped before it wrote documents may have left a newer version."""
    if documents is None or not documents.fingerprint:
        return
    for name in BESIDE:
        log = logs[name]
        found = None if log is None else log.pin(made_from=documents.fingerprint)
        if log is not None and found is not None:
            version = log.find_newest_version(found)
            needs[name].setdefault(version, []).append(f"documents version {documents.version}")


def _note(needs: dict[str, Needs], table: str | None, version: int, what: str) -> None:
    if table is not None:
        needs[table].setdefault(version, []).append(what)


def describe(name: str, place: str, needs: Needs, *, delete: bool, min_age_hours: int) -> Iterator[str]:
    """The lines for one table. With `delete`, files that nothing needs are gone when the last one comes."""
    log = open_log(place)
    if log is None:
        yield f"{name}: no table yet at {place}"
        return
    yield f"{name}: version {log.version} at {place}"
    for version, whats in sorted(needs.items()):
        more = f" and {len(whats) - MAX_SHOWN} more" if len(whats) > MAX_SHOWN else ""
        yield f"  version {version} is needed by {', '.join(whats[:MAX_SHOWN])}{more}"
    if is_table_name(place):
        yield f"  its catalog keeps the files; run there: VACUUM {place}"
        return
    size = measure_table(place, keep=needs, min_age_hours=min_age_hours)
    now, stored = _format_bytes(size.num_bytes), _format_bytes(size.num_bytes_stored)
    yield f"  {size.num_rows:,} rows, {now}; with earlier versions {stored}"
    unneeded = f"{len(size.unneeded):,} files, {_format_bytes(size.num_bytes_unneeded)}"
    if delete:
        delete_unpinned(place, keep=needs, min_age_hours=min_age_hours)
        yield f"  deleted {unneeded}"
    else:
        yield f"  not needed: {unneeded}" + ("; --delete deletes them" if size.unneeded else "")


def _format_bytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number < 1e9 else f"{number / 1e9:,.1f} GB"
