"""Positions of documents -> which of them are near duplicates of which survivors, with evidence.

1. Sign the texts that have no signature yet (`stored.py`).
2. Pair the members of each bucket with its first members (`candidates.py`).
3. Compare the sets of shingles of each pair exactly; pairs at min_jaccard or above are edges (`stored.py`).
4. Label clusters and choose survivors (`rounds.py`, `graph.py`).

A document is removed only if it has an edge to its survivor: never by a chain. Clusters show the chains.
The result is a function of the documents and the settings; neither partitions nor earlier runs change it.

Cost: 24 bytes per document and band are shuffled, and the sets of candidate pairs. Texts are read again for
new signatures and new pairs only. Few members are compared on the driver (`grown.py`).
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.few import MOST_ROWS, send_rows, send_values
from pipelines.corpus.neardup.candidates import (
    MEMBERS,
    PAIRS,
    count_crowded,
    find_doc_id,
    find_pairs,
    is_removable,
    keep_removable,
    name_pairs,
    rank_members,
    spread_buckets,
)
from pipelines.corpus.neardup.graph import choose_best, find_components, find_removed
from pipelines.corpus.neardup.outcome import REMOVED, REMOVED_DDL, describe_clusters, select_removed
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE, NearDuplicates
from pipelines.corpus.neardup.rounds import DRIVER_EDGES, Rounds, choose_survivors, list_clusters
from pipelines.corpus.neardup.similar import add_similarities, compare_few
from pipelines.corpus.neardup.stored import ReadTexts, add_signatures, describe_signed
from pipelines.corpus.quality import EXACT_DUPLICATE
from pipelines.spark import persisted
from pipelines.tables import NEAR_DUPLICATES

logger = logging.getLogger(__name__)

SIGNED_BY, LOOKED_AT = "signatures", "looked_at"
"""Names in `Found.record`: `stored.describe_signed`; the members whose buckets were compared."""
DRIVER_BUCKETS = 2_000_000
"""Buckets of the members that the driver takes: all members, or those that new files can change. Members,
buckets and their pairs (DRIVER_EDGES) take up to 1 GB in Python and 0.5 GB in the JVM."""


class TablePlaces(Protocol):
    """The part of the stage's configuration that a search needs."""

    @property
    def near_duplicates(self) -> NearDuplicates: ...
    @property
    def signatures(self) -> str: ...
    @property
    def similarities(self) -> str: ...
    @property
    def duplicates(self) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What is looked for, and the tables it needs."""

    settings: NearDuplicates
    signatures: str
    """Path or name of the table."""
    similarities: str
    """Path or name of the table."""
    evidence: str
    """Path or name of the table. Rows on the way to it are held in its folder."""
    report: Callable[[str], None] = logger.info
    """Gets a line at each step and at each round."""
    driver_pairs: int = MOST_ROWS
    """Pairs up to which the driver finds clusters, survivors and evidence without a shuffle."""
    driver_edges: int = DRIVER_EDGES
    """Of more pairs, edges up to which the driver finds clusters and survivors."""
    driver_buckets: int = DRIVER_BUCKETS
    """Buckets of members up to which the driver finds pairs, and an increment looks only at what new files
    can change; 0 = never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Near duplicates. Its rows live as long as the context of `find_near_duplicates`."""

    removed: DataFrame
    """The documents that are removed, with duplicate_of; failed_rule is near_duplicate."""
    evidence: DataFrame
    """Rows of NEAR_DUPLICATES."""
    facts: dict[str, Any]
    record: dict[str, Any]
    """What the commit of the evidence says besides: for the next run, and how much was looked at."""
    revisited: DataFrame | None = None
    """Rows of documents of before whose labels may be other ones now, besides those with a content of new
    files; None = all that were removed or are now."""
    has_revisited: bool = True
    """False: `revisited` has no rows."""


@contextmanager
def find_near_duplicates(documents: DataFrame, read_texts: ReadTexts, search: Search) -> Iterator[Found]:
    """Compare the documents, which must differ in content_hash.

    Needs doc_id, source, file, split, num_chars, content_hash, and the positions that `read_texts` needs.
    Raises ChangedMeanwhileError if texts changed while they were read.
    """
    settings, report = search.settings, search.report
    with ExitStack() as stack:
        report("near duplicates: computing signatures")
        ranked = rank_members(documents, settings).select(*MEMBERS.schema.names)
        # Members and pairs are held, not only cached: the plan of a query has the plan of all rows that it
        # reads from a cache, once for each use and each state, and writing such plans takes longer than jobs.
        held = stack.enter_context(MEMBERS.hold(ranked, search.evidence))
        members = held.rows
        signatures, num_signed, log = add_signatures(members, read_texts, settings, search.signatures)

        report("near duplicates: looking for pairs")
        buckets = stack.enter_context(persisted(spread_buckets(members, signatures, settings)))
        found = name_pairs(find_pairs(buckets, settings.max_leaders), members)
        pairs = stack.enter_context(PAIRS.hold(found, search.evidence))

        report(f"near duplicates: comparing {pairs.num_rows:,} pairs")
        if pairs.num_rows <= search.driver_pairs:
            decided = _decide_on_driver(pairs.rows, members, read_texts, search)
        else:
            decided = _decide_by_rounds(pairs.rows, members, read_texts, search, stack)
        facts = {"signed": num_signed, "pairs": pairs.num_rows, **decided.facts}
        facts["crowded_buckets"] = count_crowded(buckets, settings.max_leaders)
        yield Found(
            removed=decided.removed,
            evidence=decided.evidence,
            facts=facts,
            record={SIGNED_BY: describe_signed(log, settings), LOOKED_AT: held.num_rows},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decided:
    """What the pairs make of the members; `removed` and `evidence` as in `Found`."""

    removed: DataFrame
    evidence: DataFrame
    facts: dict[str, int]


def _decide_on_driver(
    pairs: DataFrame, members: DataFrame, read_texts: ReadTexts, search: Search
) -> _Decided:
    """Rows that the driver holds cost a job when they are looked for, and none to combine."""
    spark, known = members.sparkSession, pairs.toArrow()
    ends = pc.unique(pa.chunked_array([*known["a"].chunks, *known["b"].chunks], pa.string()))
    rows = members.join(send_values(spark, "order", ends), "order", "left_semi").toArrow()
    jaccards, num_compared = compare_few(known, rows, read_texts, search.settings, search.similarities, spark)
    known = known.append_column("jaccard", pa.array(jaccards, pa.float64()))
    edges = known.filter(pa.array(jaccards >= search.settings.min_jaccard))
    removals, clusters = keep_removable(edges), find_components(edges)
    survivors = choose_best(removals, find_removed(removals))
    evidence = describe_clusters(rows, clusters, survivors)
    return _Decided(
        removed=send_rows(spark, select_removed(rows, survivors), REMOVED_DDL),
        evidence=send_rows(spark, evidence, NEAR_DUPLICATES.schema).select(*NEAR_DUPLICATES.schema.names),
        facts=_count(num_compared, edges.num_rows, len(clusters["cluster"].unique())),
    )


def _decide_by_rounds(
    pairs: DataFrame, members: DataFrame, read_texts: ReadTexts, search: Search, stack: ExitStack
) -> _Decided:
    compared, num_compared = add_similarities(
        pairs, members, read_texts, search.settings, search.similarities
    )
    near = compared.where(F.col("jaccard") >= search.settings.min_jaccard)
    edges = stack.enter_context(persisted(near))
    rounds = Rounds(stack=stack, path=search.evidence, report=search.report, driver_edges=search.driver_edges)
    clusters = stack.enter_context(persisted(rounds.label_clusters(edges)))
    removals = edges.where(is_removable(F.col("b")))
    survivors = stack.enter_context(persisted(choose_survivors(removals, rounds.find_removed(removals))))
    return _Decided(
        removed=stack.enter_context(persisted(_select_removed(members, survivors))),
        evidence=list_clusters(members, clusters, survivors),
        facts=_count(num_compared, edges.count(), clusters.select("cluster").distinct().count()),
    )


def _count(num_compared: int, num_edges: int, num_clusters: int) -> dict[str, int]:
    return {"pairs_compared": num_compared, "near_pairs": num_edges, "clusters": num_clusters}


def _select_removed(members: DataFrame, survivors: DataFrame) -> DataFrame:
    named = survivors.select(F.col("b").alias("order"), find_doc_id(F.col("survivor")).alias("duplicate_of"))
    removed = members.join(named, "order").withColumn("failed_rule", F.lit(NEAR_DUPLICATE))
    return removed.select(*REMOVED)


def prepare_search(places: TablePlaces, report: Callable[[str], None]) -> Search | None:
    """The search that a configuration asks for; None = near duplicates stay."""
    if not places.near_duplicates.enabled:
        return None
    return Search(
        settings=places.near_duplicates,
        signatures=places.signatures,
        similarities=places.similarities,
        evidence=places.duplicates,
        report=report,
    )


def write_evidence(
    found: Found | None, search: Search | None, made_from: str, sources: Mapping[str, Mapping[str, int]]
) -> None:
    """Write the table of evidence, then look whether a source loses too much. Without a search, do nothing.
    `sources` are counts of the whole corpus, as `check_losses` needs them.

    Raises ValueError, or logs a warning, if a source loses more than max_source_loss of its documents. The
    evidence is there by then, so that it can be looked at.
    """
    if found is None or search is None:
        return
    search.report("writing evidence of near duplicates")
    facts = {**found.facts, **found.record}
    NEAR_DUPLICATES.overwrite(found.evidence, search.evidence, fingerprint=made_from, facts=facts)
    check_losses(sources, search.settings, search.evidence)


def check_losses(sources: Mapping[str, Mapping[str, int]], settings: NearDuplicates, evidence: str) -> None:
    """Raises ValueError, or logs a warning, if a source loses more than max_source_loss of its documents to
    exact copies and near duplicates. Documents that another rule drops are not counted.

    `sources` is the part of that name of `Corpus.facts`: source -> documents kept, exact_duplicate,
    near_duplicate.
    """
    lossy = []
    for name, counts in sources.items():
        exact, near = counts[EXACT_DUPLICATE], counts[NEAR_DUPLICATE]
        total = counts["kept"] + exact + near
        if exact + near > settings.max_source_loss * total:
            lossy.append(
                f"source {name!r}: {exact + near:,} of {total:,} documents, {exact:,} as exact copies and "
                f"{near:,} as near duplicates"
            )
    if not lossy:
        return
    message = (
        "corpus: copies and near duplicates exceed corpus.near_duplicates.max_source_loss = "
        f"{settings.max_source_loss:g} of a source ({'; '.join(lossy)}). The table {evidence} has each near "
        "duplicate with its survivor and exact similarity"
    )
    if settings.on_alarm == "warn":
        logger.warning("%s", message)
        return
    raise ValueError(
        f"{message}; documents were not written. To accept the loss, raise the fraction or set "
        "corpus.near_duplicates.on_alarm=warn: then duplicate_of in documents names the survivor of each copy"
    )
