"""The tables of one corpus, at the versions that belong together, as the `Content` of a report."""

from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from pipelines.corpus.report.content import Content, TokenCounts
from pipelines.corpus.report.counting import count_clusters, count_documents, count_faults, count_sequences
from pipelines.corpus.report.texts import choose_texts
from pipelines.corpus.report.tokens import TokenCounter, count_tokens
from pipelines.corpus.rules import Rules
from pipelines.pin import Pin
from pipelines.report import find_version
from pipelines.tables import DOCUMENTS, NEAR_DUPLICATES, QUARANTINE, SEQUENCES, SIGNALS


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Path or name of each table."""

    documents: str
    quarantine: str
    signals: str
    duplicates: str
    sequences: str | None = None
    """None = it is not looked at: the stage that writes it comes later."""


def read_content(
    spark: SparkSession, places: Places, rules: Rules, title: str, counter: TokenCounter | str
) -> Content:
    """Counts the newest documents and what was written with them: four Spark jobs, five with sequences.

    `counter`: what counts tokens, or why there is none. Signals, duplicates and sequences of other documents
    are left out, as if they were not there. Raises ValueError if there are no documents, or no quarantine
    that was made with them.
    """
    documents = find_version(places.documents)
    if documents is None or not documents[0].fingerprint:
        raise ValueError(
            f"{places.documents} is not a table that corpus has written; run: distributary corpus"
        )
    made_from, facts = documents[0].fingerprint, documents[0].facts
    found = {
        name: find_version(place, made_from)
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
    texts = choose_texts(rows, outcomes, with_sample=not isinstance(counter, str))
    sequences = _find_sequences(places.sequences, documents[0])
    token_counts: TokenCounts | str
    if isinstance(counter, str):
        token_counts = counter
    else:
        kept = _count_kept(spark, rows, sequences) if sequences else {}
        token_counts = count_tokens(outcomes, texts.sample, counter, kept)
    # The tables may be older than the rules of the present configuration.
    is_measured = bool(rules.languages) and any(language for _, language in languages)
    return Content(
        title=title,
        tables=[each[1] for each in (documents, *found.values()) if each is not None],
        rules=rules,
        outcomes=outcomes,
        lengths=lengths,
        languages=languages if is_measured else None,
        clusters=count_clusters(rows, others.get("duplicates")),
        searched="near_duplicates" in facts,
        contamination=facts.get("contamination"),
        removed=facts.get("paragraphs"),
        faults=count_faults(others["quarantine"]),
        examples=texts.examples,
        tokens=_sum_splits(sequences, "tokens") if sequences else None,
        token_counts=token_counts,
    )


def _find_sequences(place: str | None, documents: Pin) -> Pin | None:
    """The sequences that were made from exactly these documents."""
    found = find_version(place) if place else None
    return found[0] if found and are_made_from(found[0], documents) else None


def are_made_from(sequences: Pin, documents: Pin | None) -> bool:
    """Whether the stage dataset made these sequences from exactly these documents."""
    source = sequences.facts.get("documents", {})
    identity = documents.identity() if documents else {"version": None}
    return bool(sequences.fingerprint) and all(source.get(name) == identity[name] for name in identity)


def _sum_splits(sequences: Pin, count: str) -> dict[str, int]:
    """A count of the commit by split."""
    return {split: int(counts.get(count, 0)) for split, counts in sequences.facts.get("splits", {}).items()}


def _count_kept(spark: SparkSession, documents: DataFrame, sequences: Pin) -> dict[str | None, int]:
    """Exact tokens of the kept documents, see TokenCounts.kept. Where tokens were cut off, the commit says
    how many, but not of which source."""
    tokens, cut = (sum(_sum_splits(sequences, name).values()) for name in ("tokens", "cut_tokens"))
    if cut:
        return {None: tokens + cut}
    rows = SEQUENCES.read(spark, sequences.path, sequences.version)
    return {None: tokens, **count_sequences(documents, rows)}
