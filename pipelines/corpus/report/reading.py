"""The tables of one corpus, at the versions that belong together, as the `Content` of a report."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession

from pipelines.corpus.report.content import Content, TableVersion
from pipelines.corpus.report.counting import choose_examples, count_clusters, count_documents, count_faults
from pipelines.corpus.rules import Rules
from pipelines.pin import Pin, open_log
from pipelines.tables import DOCUMENTS, NEAR_DUPLICATES, QUARANTINE, SIGNALS


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Path or name of each table."""

    documents: str
    quarantine: str
    signals: str
    duplicates: str
    sequences: str | None = None
    """None = it is not looked at: the stage that writes it comes later."""


def read_content(spark: SparkSession, places: Places, rules: Rules, title: str) -> Content:
    """Counts the newest documents and what was written with them: four Spark jobs.

    Signals and duplicates of other documents are left out, as if they were not there. Raises ValueError if
    there are no documents, or no quarantine that was made with them.
    """
    documents = _pin(places.documents)
    if documents is None or not documents[0].fingerprint:
        raise ValueError(
            f"{places.documents} is not a table that corpus has written; run: distributary corpus"
        )
    made_from, facts = documents[0].fingerprint, documents[0].facts
    found = {
        name: _pin(place, made_from)
        for name, place in (
            ("quarantine", places.quarantine),
            ("signals", places.signals),
            ("duplicates", places.duplicates),
        )
    }
    if found["quarantine"] is None:
        raise ValueError(
            f"{places.quarantine} was not made together with {places.documents}; run: distributary corpus"
        )
    rows = DOCUMENTS.read(spark, places.documents, documents[0].version)
    tables = {"quarantine": QUARANTINE, "signals": SIGNALS, "duplicates": NEAR_DUPLICATES}
    others = {
        name: tables[name].read(spark, own[0].path, own[0].version)
        for name, own in found.items()
        if own is not None
    }
    outcomes, lengths, languages = count_documents(rows, others.get("signals"))
    dropped: dict[str, int] = {}
    for (_, reason), amount in outcomes.items():
        if reason is not None:
            dropped[reason] = dropped.get(reason, 0) + amount.documents
    # The tables may be older than the rules of the present configuration.
    is_measured = bool(rules.languages) and any(language for _, language in languages)
    return Content(
        title=title,
        tables=[_describe(each) for each in (documents, *found.values()) if each is not None],
        rules=rules,
        outcomes=outcomes,
        lengths=lengths,
        languages=languages if is_measured else None,
        clusters=count_clusters(rows, others.get("duplicates")),
        searched="near_duplicates" in facts,
        contamination=facts.get("contamination"),
        removed=facts.get("paragraphs"),
        faults=count_faults(others["quarantine"]),
        examples=choose_examples(rows, dropped),
        tokens=_find_tokens(places.sequences, documents[0]),
    )


_Found = tuple[Pin, str]
"""A pin, and the time of its commit in UTC."""


def _pin(place: str, made_from: str | None = None) -> _Found | None:
    """The newest rows of the table; None if there is none, or it was made from something else."""
    log = open_log(place)
    found = log.pin() if log else None
    if log is None or found is None or made_from not in (None, found.fingerprint):
        return None
    return found, _format_time((log.source.read_commit(found.version) or {}).get("timestamp"))


def _format_time(value: Any) -> str:
    """Milliseconds since 1970 of a log file, or what Spark says of the table's history."""
    moment = datetime.fromtimestamp(value / 1000, UTC) if isinstance(value, int) else value
    return moment.strftime("%Y-%m-%d %H:%M UTC") if isinstance(moment, datetime) else ""


def _describe(found: _Found) -> TableVersion:
    own, written = found
    return TableVersion(
        name=own.table, version=own.version, digest=own.digest, num_rows=own.num_rows, written=written
    )


def _find_tokens(place: str | None, documents: Pin) -> dict[str, int] | None:
    """Tokens by split of the sequences that were made from exactly these documents."""
    found = _pin(place) if place else None
    if found is None or not found[0].fingerprint:
        return None
    source, splits = found[0].facts.get("documents", {}), found[0].facts.get("splits", {})
    if any(source.get(name) != value for name, value in documents.identity().items()):
        return None
    return {split: int(counts["tokens"]) for split, counts in splits.items()}
