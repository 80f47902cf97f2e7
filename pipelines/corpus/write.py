"""The ledger of an intake, and the corpus that it opens."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipelines.corpus.build import Corpus, open_corpus
from pipelines.corpus.increment import open_earlier
from pipelines.corpus.intake import FullRunNeededError, Intake
from pipelines.corpus.ledger import make_entries
from pipelines.corpus.neardup.find import Search
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source
from pipelines.tables import LEDGER


@contextmanager
def open_intake(
    spark: SparkSession,
    sources: Sequence[Source],
    intake: Intake,
    rules: Rules,
    search: Search | None,
    contamination: str,
    paragraphs: Paragraphs,
) -> Iterator[Corpus]:
    """The corpus of the files to read, with the earlier documents if there are any; as `open_corpus`.
    `contamination` is the table of that name; it is read if there are evaluation sets.

    Raises FullRunNeededError if the new files cannot be added to the earlier documents.
    """
    earlier = None
    if intake.earlier is not None:
        if intake.obstacle:
            raise FullRunNeededError(intake.obstacle)
        screens = intake.part.screens
        has_sets = screens is not None and screens.evaluation is not None
        earlier = open_earlier(spark, intake.earlier, contamination if has_sets else "")
    with open_corpus(spark, sources, intake.part, rules, search, earlier, paragraphs) as corpus:
        yield corpus


def write_ledger(
    spark: SparkSession, intake: Intake, sources: Sequence[Source], path: str, facts: Mapping[str, Any]
) -> None:
    """Write which files the documents will be made from. Call it before documents are committed: a commit of
    documents without its ledger would make the next run read everything again."""
    entries = make_entries(intake.part, [source.name for source in sources])
    now = pa.array([datetime.now(UTC)] * entries.num_rows, pa.timestamp("us", "UTC"))
    rows = spark.createDataFrame(entries.append_column("ingested_at", now))
    kinds = {column.name: column.dataType for column in LEDGER.schema}
    typed = rows.select(*(F.col(name).cast(kind) for name, kind in kinds.items()))
    intake.write(LEDGER, typed, path, facts)
