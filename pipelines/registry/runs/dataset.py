"""What the run of a training shows of its sequences: what fills them, and the report about them.

All comes from what dataset recorded with the sequences and wrote beside them, so nothing is counted again.
"""

import logging
from typing import TYPE_CHECKING

from pipelines.dataset.report.content import has_token_targets, masks_targets
from pipelines.dataset.report.numbers import Numbers, read_numbers
from pipelines.pin import Pin
from pipelines.registry.runs.corpus import UNREADABLE
from pipelines.report import Report, read_report

if TYPE_CHECKING:
    from pipelines.registry.runs.tracker import Tracker

logger = logging.getLogger(__name__)


def log_sequences(tracker: "Tracker", sequences: Pin) -> None:
    """Keep pictures/sequences.png and, if dataset wrote a report of these sequences, sequences.html and
    sequences.json, with pictures of lengths and sources.

    Where the report cannot be read any more, a training that has ended well does not fail for it: a warning
    names what is missing.
    """
    facts, report, numbers = sequences.facts, None, None
    try:
        if report := _find_report(sequences):
            numbers = read_numbers(report.numbers)
        elif facts.get("report"):
            logger.warning(
                "run %s: no report of the sequences: %s or its numbers are missing, or about another version "
                "of the table; run: distributary dataset --report",
                tracker.run_id,
                facts["report"],
            )
    except UNREADABLE as error:
        logger.warning(
            "run %s: no report of the sequences from %s (%s)", tracker.run_id, facts["report"], error
        )
        report = None
    _log_pictures(tracker, sequences, numbers)
    if report is not None:
        tracker.log_text("sequences.html", report.page)
        tracker.log_text("sequences.json", report.numbers)


def _find_report(sequences: Pin) -> Report | None:
    place = sequences.facts.get("report")
    return read_report(place, sequences) if place else None


def _log_pictures(tracker: "Tracker", sequences: Pin, numbers: Numbers | None) -> None:
    """One picture for each thing that was counted and is there."""
    from pipelines.dataset.report import pictures  # loads matplotlib: only a training that ends needs it

    of, facts = f"sequences version {sequences.version}", sequences.facts
    places = pictures.draw_places(
        facts["splits"],
        facts["sequence_length"],
        has_labels=not has_token_targets(facts["task"], len(facts["labels"])),
        is_masked=masks_targets(facts["task"]),
        title=f"Tokens and padding: {of}",
    )
    tracker.log_picture("sequences", places)
    if numbers is None:
        return
    if numbers.sequences:
        lengths = pictures.draw_lengths(numbers.documents, numbers.sequences, title=f"Lengths: {of}")
        tracker.log_picture("sequences_lengths", lengths)
    if numbers.sources:
        sources = pictures.draw_sources(numbers.sources, title=f"Tokens by source: {of}")
        tracker.log_picture("sequences_sources", sources)
