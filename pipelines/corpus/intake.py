"""What a run of the stage takes in: all files, or only those that are new since the documents were made.

An increment gives the tables of a full run, digest for digest, and reads only new files. So nobody has to
choose: a run is an increment where that is possible, and says why where it is not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.arrow_rows import read_arrow
from pipelines.corpus.ledger import ENTRIES, Changes, compare_files, restore_manifest
from pipelines.corpus.manifest import Manifest, make_manifest
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.screens import apply_screens
from pipelines.corpus.source import ChangedFiles, Source
from pipelines.paths import is_table_name
from pipelines.pin import Pin, open_log, pin

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from pipelines.change import Replaced
    from pipelines.delta import Table
    from pipelines.held import HeldRows


class IntakePlaces(Protocol):
    """The part of the stage's configuration that an intake needs."""

    @property
    def documents(self) -> str: ...
    @property
    def ledger(self) -> str: ...
    @property
    def quarantine(self) -> str: ...
    @property
    def measured(self) -> list[str]: ...
    @property
    def evidence(self) -> list[str]: ...
    @property
    def changed_files(self) -> ChangedFiles: ...
    @property
    def paragraphs(self) -> Paragraphs: ...


class FullRunNeededError(Exception):
    """The new files cannot be added to the tables: a row that is there would have to leave its table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Intake:
    """The files to read, and what the tables will stand for afterwards."""

    fingerprint: str
    """Of the tables afterwards: that of a full run over the files of `whole`."""
    whole: Manifest
    """All files that the tables will be made from. Those of before have no paths."""
    part: Manifest
    """The files to read."""
    earlier: Pin | None = None
    """The documents that the new ones are added to; None = the tables are written from nothing."""
    why: str = ""
    """Why these files; empty if it is plain."""
    obstacle: str = ""
    """Why no rows can be added; matters only if a table must be written."""
    fallback: "Intake | None" = None
    """If there are earlier documents: the full run instead; None = there can be none, because files that
    were kept have changed or are gone."""

    @property
    def num_bytes(self) -> int:
        return self.part.num_bytes

    def write(
        self,
        table: "Table",
        rows: "DataFrame | HeldRows",
        path: str,
        facts: Mapping[str, Any],
        replaced: "Replaced | None" = None,
    ) -> Pin:
        """Make the rows, with the earlier ones if there are any, the rows of the table."""
        if self.earlier is None:
            return table.overwrite(rows, path, fingerprint=self.fingerprint, facts=facts)
        return table.extend(
            rows,
            path,
            base=self.earlier.fingerprint,
            fingerprint=self.fingerprint,
            facts=facts,
            replaced=replaced,
        )

    def replan(self, reason: FullRunNeededError) -> "Intake":
        """The full run that gives the same tables. Raises ValueError if there can be none."""
        if self.fallback is None:
            raise ValueError(
                f"corpus: {reason}, which takes a full run, but files that changed or disappeared are kept "
                "(corpus.changed_files=keep); correct the new files, or set corpus.changed_files=rebuild"
            )
        return replace(self.fallback, why=str(reason))


def plan_intake(
    manifest: Manifest, sources: Sequence[Source], places: IntakePlaces, identify: Callable[[str], str]
) -> Intake:
    """The intake for the files that there are now. `identify` gives the fingerprint of tables made from files
    with this digest, by the present settings.

    Raises ValueError, which names the files, if files changed or disappeared since their documents were made
    and `places.changed_files` is stop, or is keep and only a full run is possible.
    """
    full = Intake(fingerprint=identify(manifest.digest), whole=manifest, part=manifest)
    earlier = pin(places.documents)
    if earlier is None or not earlier.fingerprint or earlier.fingerprint == full.fingerprint:
        return full
    entries = _read_entries(places.ledger, earlier.fingerprint)
    files = None if entries is None else restore_manifest(entries, sources)
    keeps = places.changed_files == "keep"
    if files is None:
        if keeps:
            reason = f"no ledger goes with documents version {earlier.version}"
            raise _refuse(
                reason if entries is None else "a source of before has another name, or is gone", ""
            )
        return full
    before = apply_screens(files, manifest.screens)
    changes = compare_files(before, manifest, sources)
    if keeps and (table := _find_rewritten(changes, sources)):
        raise _refuse(f"source {table} is a table that wrote earlier rows to new files", changes.describe())
    if identify(before.digest) != earlier.fingerprint:
        if keeps and not changes.keep_documents:
            raise _refuse("the settings changed", changes.describe())
        return full
    if not changes.keep_documents and not keeps:
        return _replace_files(full, changes, earlier, places.changed_files)
    if obstacle := _find_obstacle(places, earlier):
        if changes.keep_documents:
            return replace(full, why=f"all files are read, because {obstacle}")
        if changes.new.num_rows:
            raise _refuse(obstacle, changes.describe())
    return replace(_add_files(full, before, changes, earlier, sources, identify), obstacle=obstacle)


def _find_rewritten(changes: Changes, sources: Sequence[Source]) -> str:
    """A source that is a table with files both gone and new: OPTIMIZE and UPDATE write rows again."""
    gone, new = (set(pc.unique(part["source"]).to_pylist()) for part in (changes.deleted, changes.new))
    return next((sources[n].name for n in sorted(gone & new) if sources[n].reader.pin is not None), "")


def _refuse(reason: str, changes: str) -> ValueError:
    """A full run is needed, and would take documents away that shall be kept."""
    which = f", but {changes} since documents were made" if changes else ""
    return ValueError(
        f"corpus: {reason}, so all files must be read again{which}, and corpus.changed_files=keep says to "
        "keep the documents of such files; undo that, or set corpus.changed_files=rebuild"
    )


def _replace_files(full: Intake, changes: Changes, earlier: Pin, choice: ChangedFiles) -> Intake:
    if choice == "rebuild":
        return replace(full, why=f"{changes.describe()} since version {earlier.version}")
    raise ValueError(
        f"corpus: {changes.describe()} since documents version {earlier.version} was made. To read all files "
        "again, so that the documents are those of the files as they are now: corpus.changed_files=rebuild. "
        "To keep the documents of these files as they are, and read new files only: corpus.changed_files=keep"
    )


def _add_files(
    full: Intake,
    before: Manifest,
    changes: Changes,
    earlier: Pin,
    sources: Sequence[Source],
    identify: Callable[[str], str],
) -> Intake:
    """The new files on top of the documents of the files of before."""
    now = full.whole

    def make(files: pa.Table) -> Manifest:
        return apply_screens(make_manifest(files, sources, now.versions), now.screens)

    whole = make(pa.concat_tables([before.files, changes.new]))
    number = changes.new.num_rows
    kept = "" if changes.keep_documents else f"; {changes.describe()}: their documents are kept"
    files = f"{number:,} new {'file' if number == 1 else 'files'}"
    return Intake(
        fingerprint=identify(whole.digest),
        whole=whole,
        part=make(changes.new),
        earlier=earlier,
        why=f"{files} since documents version {earlier.version}{kept}",
        fallback=full if changes.keep_documents else None,
    )


def _find_obstacle(places: IntakePlaces, earlier: Pin) -> str:
    """Why no rows can be added to the tables, whatever the files are; empty if they can."""
    if places.paragraphs.enabled:
        return "a new file can make paragraphs of earlier documents copies (corpus.paragraphs)"
    tables = [places.quarantine, *places.measured, *places.evidence, places.documents]
    if named := [place for place in tables if is_table_name(place)]:
        return f"{named[0]} belongs to a catalog, and only paths are extended"
    for place in tables:
        log = open_log(place)
        found = log.pin(made_from=earlier.fingerprint) if log else None
        if log is None or found is None or log.read_totals(found.version) is None:
            return f"{place} has no version of the same run as the documents"
    return ""


def _read_entries(ledger: str, made_from: str) -> pa.Table | None:
    """The files (ENTRIES) that the documents with this fingerprint were made from; None if no ledger says."""
    log = open_log(ledger)
    found = log.pin(made_from=made_from) if log else None
    if log is None or found is None:
        return None
    return read_arrow(ledger, log.find_newest_version(found), ENTRIES)
