"""The search for near duplicates among the documents of a corpus: new ones, and those that are there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import DataFrame

from pipelines.corpus.copies import Copies
from pipelines.corpus.counts import without_survivor
from pipelines.corpus.dedup import leave_out_copies
from pipelines.corpus.increment import Earlier, add_rows, select_members
from pipelines.corpus.neardup.affected import SearchAllError
from pipelines.corpus.neardup.before import open_before, open_nothing
from pipelines.corpus.neardup.find import Found, Search, find_near_duplicates
from pipelines.corpus.neardup.grown import search_changed
from pipelines.corpus.neardup.stored import ReadTexts, Work
from pipelines.corpus.quality import label_quality
from pipelines.corpus.readers.files import read_texts
from pipelines.corpus.readers.slices import Slices
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source

_NOT_COMPARED = ("shard", "duplicate_of", "drop_reason")
"""Columns of earlier rows that say what was decided; the search decides again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which documents are members: those that no other rule drops, and that are copies of nothing."""

    rules: Rules
    survivors: DataFrame | None
    """Of copies; None = there are none."""

    def choose(self, documents: DataFrame) -> DataFrame:
        kept = documents if self.survivors is None else leave_out_copies(documents, self.survivors)
        labelled = label_quality(without_survivor(kept), self.rules)
        return labelled.where("drop_reason IS NULL").select(*kept.columns)


@contextmanager
def search_members(
    copies: Copies,
    sources: Sequence[Source],
    slices: Slices,
    rules: Rules,
    search: Search,
    earlier: Earlier | None,
) -> Iterator[Found]:
    """Near duplicates among the members. Rows of earlier ones have no task.

    With earlier documents, only what the new ones can change is looked at, where that is possible. Without,
    few documents are compared on the driver.
    """

    def read(positions: DataFrame, work: Work, ddl: str) -> DataFrame:
        labels = positions.where("task IS NOT NULL").select("task", "slice", "offset")
        rows = read_texts(positions.sparkSession, sources, slices, labels, work, ddl)
        if earlier is None:
            return rows
        known = earlier.work_on_texts(positions.where("task IS NULL"), work, ddl)
        return rows if known is None else rows.unionByName(known)

    documents, others = copies.documents, copies.earlier
    choice = Choice(rules=rules, survivors=None if copies.labelled is None else copies.survivors)
    changed, num_signed = None, 0
    if search.driver_buckets:
        try:
            if earlier is None:
                changed = _search_few(documents, choice, search, read)
            elif others is not None:
                changed = _search_changed(documents, choice, search, earlier, others, read)
        except SearchAllError as reason:
            where = "by executors" if earlier is None else "among all documents"
            search.report(f"near duplicates: looking {where}, because {reason}")
            num_signed = reason.num_signed
    if changed is not None:
        yield changed
        return
    before = None if earlier is None else earlier.find_members().drop(*_NOT_COMPARED)
    with find_near_duplicates(choice.choose(add_rows(documents, before)), read, search) as found:
        found.facts["signed"] += num_signed
        yield found


def _search_few(documents: DataFrame, choice: Choice, search: Search, read: ReadTexts) -> Found | None:
    """The result of a search on the driver; None if the documents are not few. Raises SearchAllError if their
    pairs are not."""
    if documents.count() > search.driver_buckets // search.settings.banding.num_bands:
        return None
    return search_changed(choice.choose(documents), open_nothing(search), read, search)


def _search_changed(
    documents: DataFrame, choice: Choice, search: Search, earlier: Earlier, others: DataFrame, read: ReadTexts
) -> Found:
    """The result of a search among what the documents can change. Raises SearchAllError if it takes all
    members."""
    known = select_members(others)
    before = open_before(earlier.open_members(), known, search, earlier.pin.fingerprint)
    arrived = choice.choose(add_rows(documents, known.drop(*_NOT_COMPARED)))
    return search_changed(arrived, before, read, search)
