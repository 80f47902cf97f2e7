"""The search for near duplicates among the documents of a corpus: new ones, and those that are there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyspark.sql import DataFrame

from pipelines.corpus.counts import without_survivor
from pipelines.corpus.increment import Earlier
from pipelines.corpus.neardup.find import Found, Search, find_near_duplicates
from pipelines.corpus.neardup.stored import Work
from pipelines.corpus.quality import label_quality
from pipelines.corpus.readers.files import read_texts
from pipelines.corpus.readers.slices import Slices
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source


@contextmanager
def search_members(
    documents: DataFrame,
    sources: Sequence[Source],
    slices: Slices,
    rules: Rules,
    search: Search,
    earlier: Earlier | None,
) -> Iterator[Found]:
    """Near duplicates among the documents that no other rule drops. Rows of earlier ones have no task."""

    def read(positions: DataFrame, work: Work, ddl: str) -> DataFrame:
        labels = positions.where("task IS NOT NULL").select("task", "slice", "offset")
        rows = read_texts(documents.sparkSession, sources, slices, labels, work, ddl)
        if earlier is None:
            return rows
        known = earlier.work_on_texts(positions.where("task IS NULL"), work, ddl)
        return rows if known is None else rows.unionByName(known)

    labelled = label_quality(without_survivor(documents), rules)
    kept = labelled.where("drop_reason IS NULL").select(*documents.columns)
    with find_near_duplicates(kept, read, search) as found:
        yield found
