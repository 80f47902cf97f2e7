"""What the run of a training shows of its corpus: how many records became documents, and the page about it.

Both come from what corpus recorded with the documents, so nothing is counted again.
"""

import logging
from typing import TYPE_CHECKING

from pipelines.corpus.report.content import order_drops
from pipelines.corpus.report.file import read_page
from pipelines.pin import Pin, open_log

if TYPE_CHECKING:
    from pipelines.registry.runs.tracker import Tracker

logger = logging.getLogger(__name__)


def log_corpus(tracker: "Tracker", documents: Pin) -> None:
    """Keep pictures/corpus.png and, if corpus wrote a report of these documents, corpus.html.

    `documents` needs no facts: its commit has them. Where the commit or the page cannot be read any more, a
    training that has ended well does not fail for it: a warning names what is missing.
    """
    try:
        log = open_log(documents.path)
        found = log.read_pin(documents.version) if log and log.source.table_id == documents.table_id else None
        place = found.facts.get("report") if found else None
        page = read_page(place, found) if found and place else None
    except OSError as error:
        logger.warning("run %s: no picture of the corpus (%s)", tracker.run_id, error)
        return
    if found is None or "records" not in found.facts:
        logger.warning("run %s: no picture of the corpus: its commit is gone", tracker.run_id)
        return
    from pipelines.charts import draw_drops  # loads matplotlib: only a training that ends needs it

    facts = found.facts
    dropped = {"quarantine": facts["quarantined"]} if facts["quarantined"] else {}
    dropped |= {reason: facts["dropped"][reason] for reason in order_drops(facts["dropped"])}
    title = f"Corpus: documents version {found.version}"
    tracker.log_picture("corpus", draw_drops(facts["records"], dropped, title=title))
    if page is not None:
        tracker.log_text("corpus.html", page)
