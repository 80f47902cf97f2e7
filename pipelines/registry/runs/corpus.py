"""What the run of a training shows of its corpus: how many records became documents, and the report about it.

All comes from what corpus recorded with the documents and wrote beside them, so nothing is counted again.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.corpus.report.content import order_drops
from pipelines.corpus.report.numbers import Numbers, read_numbers
from pipelines.pin import Pin, open_log
from pipelines.report import Report, read_report

if TYPE_CHECKING:
    from pipelines.registry.runs.tracker import Tracker

logger = logging.getLogger(__name__)
UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""What files of another version, or changed by hand, lead to."""


def log_corpus(tracker: "Tracker", documents: Pin) -> None:
    """Keep pictures/corpus.png and, if corpus wrote a report of these documents, corpus.html and corpus.json,
    with pictures of lengths, languages and clusters of duplicates.

    `documents` needs no facts: its commit has them. Where the commit or the report cannot be read any more, a
    training that has ended well does not fail for it: a warning names what is missing.
    """
    try:
        log = open_log(documents.path)
        found = log.read_pin(documents.version) if log and log.source.table_id == documents.table_id else None
    except UNREADABLE as error:
        logger.warning("run %s: no picture of the corpus (%s)", tracker.run_id, error)
        return
    if found is None or "records" not in found.facts:
        logger.warning("run %s: no picture of the corpus: its commit is gone", tracker.run_id)
        return
    facts, report, numbers = found.facts, None, None
    try:
        if report := _find_report(found):
            numbers = read_numbers(report.numbers)
    except UNREADABLE as error:
        logger.warning("run %s: no report of the corpus from %s (%s)", tracker.run_id, facts["report"], error)
        report = None
    dropped = {"quarantine": facts["quarantined"]} if facts["quarantined"] else {}
    dropped |= {reason: facts["dropped"][reason] for reason in order_drops(facts["dropped"])}
    log_pictures(tracker, facts["records"], dropped, numbers, f"documents version {found.version}")
    if report is not None:
        tracker.log_text("corpus.html", report.page)
        tracker.log_text("corpus.json", report.numbers)


def _find_report(documents: Pin) -> Report | None:
    place = documents.facts.get("report")
    return read_report(place, documents) if place else None


def log_pictures(
    tracker: "Tracker", records: int, dropped: Mapping[str, int], numbers: Numbers | None, of: str
) -> None:
    """One picture for each thing that was counted and is there."""
    from pipelines.corpus.report import pictures  # loads matplotlib: only a training that ends needs it

    drops = pictures.draw_drops(
        records, dropped, title=f"Corpus: {of}", tokens=numbers.tokens if numbers else None
    )
    tracker.log_picture("corpus", drops)
    if numbers is None:
        return
    if numbers.lengths:
        tracker.log_picture("corpus_lengths", pictures.draw_lengths(numbers.lengths, title=f"Lengths: {of}"))
    if numbers.languages:
        figure = pictures.draw_languages(numbers.languages, title=f"Languages: {of}")
        tracker.log_picture("corpus_languages", figure)
    if numbers.clusters:
        figure = pictures.draw_clusters(numbers.clusters, title=f"Clusters of duplicates: {of}")
        tracker.log_picture("corpus_clusters", figure)
