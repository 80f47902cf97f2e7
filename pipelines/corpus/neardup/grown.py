"""Near duplicates after new files: only what these can change is looked at. The result is that of a search
among all members.

`affected.py` says which members these are, and why. Here are its questions to the tables: each is a scan of
narrow columns with values that every executor gets, so nothing that grows with the corpus is shuffled. The
answers are small, come to the driver, and end the plan of their query. Pairs, clusters and survivors are
found there; executors read texts only for new signatures and new pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.corpus.few import bring_rows, send_rows
from pipelines.corpus.neardup.affected import (
    CLUSTERED,
    ROWS,
    SIGNED,
    SearchAllError,
    find_affected,
    merge_changed,
)
from pipelines.corpus.neardup.candidates import rank_members
from pipelines.corpus.neardup.find import LOOKED_AT, SIGNED_BY, Found, Search
from pipelines.corpus.neardup.outcome import REMOVED_DDL, AskedPairs, Outcome, ask_pairs, decide
from pipelines.corpus.neardup.stored import (
    ReadTexts,
    are_signed,
    compare_few,
    describe_signed,
    read_signatures,
    require_complete,
    write_signatures,
)
from pipelines.pin import TableLog, fingerprint, open_log
from pipelines.tables import NEAR_DUPLICATES

MOST_MEMBERS = 500_000
"""Rows of all answers together that the driver takes: about 200 MB."""
_POSITION = ["doc_id", "content_hash", "task", "slice", "offset"]
_FROM_DOCUMENTS = ("shard", "duplicate_of", "drop_reason")
_REVISITED_DDL = """doc_id STRING, source STRING, file STRING, offset BIGINT, content_hash STRING,
num_chars INT, split STRING, duplicate_of STRING, drop_reason STRING, shard STRING"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """The search of the earlier documents. Rows have the columns of `Earlier.read_rows`."""

    members: DataFrame
    """All members."""
    changed: DataFrame
    """Those of them with a content that new files have."""
    evidence: TableLog
    """Of the version of NEAR_DUPLICATES that belongs to the documents."""
    signatures: TableLog
    record: Mapping[str, Any]
    """Its facts."""


def open_before(members: DataFrame, changed: DataFrame, search: Search, made_from: str) -> Before:
    """What there is of the search that gave the documents with this fingerprint.

    Raises SearchAllError if its evidence is not the newest, or does not say what it was made with.
    """
    log = open_log(search.evidence)
    found = log.pin() if log else None
    if log is None or found is None or found.fingerprint != made_from:
        raise SearchAllError(f"the evidence in {search.evidence} is not that of the documents")
    signatures = _require_signed(open_log(search.signatures), found.facts, search)
    return Before(members=members, changed=changed, evidence=log, signatures=signatures, record=found.facts)


def search_changed(arrived: DataFrame, before: Before, read_texts: ReadTexts, search: Search) -> Found:
    """The near duplicates of the corpus with new files. `arrived` are the members now that have a content of
    the new files: new documents, and earlier ones that are still the first of their copies.

    Raises SearchAllError if it takes a search among all members, ChangedMeanwhileError if texts changed while
    they were read.
    """
    settings = search.settings
    search.report("near duplicates: computing signatures of new texts")
    tables = _Tables(before, search)
    rows = _select_rows(arrived, search, now=True).unionByName(
        _select_rows(before.changed, search, now=False)
    )
    changed = merge_changed(tables.fetch(rows, ROWS))
    signatures, num_signed, log = _sign(changed, before, read_texts, search, tables)

    search.report("near duplicates: looking for what the new texts change")
    try:
        found = find_affected(changed, signatures, tables, settings)
        _require_few(max(len(found.before), len(found.now)), search)
        asked = ask_pairs(found)
        _require_few(asked.contents.num_rows, search)
    except SearchAllError as reason:
        reason.num_signed = num_signed
        raise

    search.report(f"near duplicates: comparing {asked.contents.num_rows:,} pairs")
    jaccards, num_compared = _compare(asked, found.members, read_texts, search, tables)
    outcome = decide(found, asked, jaccards, settings.min_jaccard, before.record)
    return Found(
        removed=send_rows(tables.spark, outcome.removed, REMOVED_DDL),
        evidence=_join_evidence(outcome, tables),
        facts={"signed": num_signed, "pairs_compared": num_compared, **outcome.facts},
        record={
            SIGNED_BY: describe_signed(log, settings),
            LOOKED_AT: pc.sum(found.members["now"]).as_py() or 0,
        },
        revisited=send_rows(tables.spark, outcome.revisited, _REVISITED_DDL),
    )


class _Tables:
    """`affected.Lookups`: the answers of the tables."""

    def __init__(self, before: Before, search: Search) -> None:
        self.before, self.search = before, search
        self.spark = before.members.sparkSession
        self.evidence = NEAR_DUPLICATES.read_newest(self.spark, before.evidence.path, before.evidence)
        self.open_signatures(before.signatures)
        bands = search.settings.banding.num_bands
        self.left = min(MOST_MEMBERS, search.driver_buckets // bands)
        self.most_values = search.driver_buckets

    def open_signatures(self, log: TableLog) -> None:
        self.signed = read_signatures(self.spark, self.search.signatures, log, self.search.settings)

    def fetch(self, rows: DataFrame, schema: pa.Schema) -> pa.Table:
        """The rows, on the driver. Raises SearchAllError if they are too many, with those fetched before."""
        found = bring_rows(rows.select(*schema.names), self.left)
        if found is None:
            raise SearchAllError("more members may change than the driver takes")
        self.left -= found.num_rows
        return found.cast(schema)

    def match(self, rows: DataFrame, values: pa.Table) -> DataFrame:
        """The rows that have one of the values. Raises SearchAllError if they are too many to travel."""
        if values.num_rows > self.most_values:
            raise SearchAllError(f"more than {self.most_values:,} buckets or pairs may change")
        return rows.join(F.broadcast(self.spark.createDataFrame(values)), values.schema.names, "left_semi")

    def find_sharing(self, buckets: pa.Array) -> pa.Table:
        if not len(buckets):
            return SIGNED.empty_table()
        rows = self.signed.select("content_hash", "buckets", F.explode("buckets").alias("bucket"))
        found = self.match(rows, pa.table({"bucket": buckets}))
        return self.fetch(found.dropDuplicates(["content_hash"]), SIGNED)

    def find_signatures(self, contents: pa.Array) -> pa.Table:
        if not len(contents):
            return SIGNED.empty_table()
        return self.fetch(self.match(self.signed, pa.table({"content_hash": contents})), SIGNED)

    def find_members(self, contents: pa.Array) -> pa.Table:
        return self._find_members(pa.table({"content_hash": contents}))

    def find_named(self, doc_ids: pa.Array) -> pa.Table:
        return self._find_members(pa.table({"doc_id": doc_ids}))

    def _find_members(self, values: pa.Table) -> pa.Table:
        if not values.num_rows:
            return ROWS.empty_table()
        found = self.match(self.before.members, values)
        return self.fetch(_select_rows(found, self.search, now=True), ROWS)

    def find_clusters(self, doc_ids: pa.Array) -> pa.Table:
        if not len(doc_ids):
            return CLUSTERED.empty_table()
        touched = self.match(self.evidence, pa.table({"doc_id": doc_ids})).select("cluster_id")
        return self.fetch(self.evidence.join(F.broadcast(touched), "cluster_id", "left_semi"), CLUSTERED)


def _select_rows(documents: DataFrame, search: Search, *, now: bool) -> DataFrame:
    """Rows of ROWS. Documents with the column shard were members before."""
    was = "shard" in documents.columns
    ranked = rank_members(documents, search.settings)
    ranked = ranked.withColumns({"was": F.lit(was), "now": F.lit(now)})
    kinds = {"task": "int", "slice": "int", **dict.fromkeys(_FROM_DOCUMENTS, "string")}
    missing = {name: F.lit(None).cast(kinds[name]) for name in ROWS.names if name not in ranked.columns}
    return ranked.withColumns(missing).select(*(F.col(name) for name in ROWS.names))


def _require_signed(log: TableLog | None, record: Mapping[str, Any], search: Search) -> TableLog:
    if not (signed_by := record.get(SIGNED_BY)):
        raise SearchAllError(f"the evidence in {search.evidence} does not say which signatures it had")
    if log is None or not are_signed(log, signed_by, search.settings):
        raise SearchAllError(
            f"{search.signatures} may not have all signatures of earlier texts: another program changed it, "
            "or the hash functions are new"
        )
    return log


def _sign(
    changed: pa.Table, before: Before, read_texts: ReadTexts, search: Search, tables: _Tables
) -> tuple[pa.Table, int, TableLog]:
    """(the signatures of the changed members, how many were computed now, the log of their table)"""
    log, path = before.signatures, search.signatures
    contents = pc.unique(changed["content_hash"])
    found = tables.find_signatures(contents)
    is_known = pc.is_in(changed["content_hash"], value_set=_hashes(found))
    missing = changed.filter(pc.and_(changed["now"], pc.invert(is_known)))
    if missing.num_rows:
        described = missing.num_rows, _mark(missing["content_hash"])
        positions = tables.spark.createDataFrame(missing.select(_POSITION))
        write_signatures(positions, described, read_texts, search.settings, path)
        log = _require_signed(open_log(path), before.record, search)
        tables.open_signatures(log)
        found = tables.find_signatures(contents)
    left = changed.filter(pc.invert(pc.is_in(changed["content_hash"], value_set=_hashes(found))))
    require_complete(len(pc.unique(left.filter(left["now"])["content_hash"])), "signatures", path)
    if left.num_rows:
        raise SearchAllError(f"{search.signatures} lacks {left.num_rows:,} signatures of earlier texts")
    return found, missing.num_rows, log


def _compare(
    asked: AskedPairs, members: pa.Table, read_texts: ReadTexts, search: Search, tables: _Tables
) -> tuple[npt.NDArray[np.float64], int]:
    """(the similarity of each pair of contents, how many were compared now)"""

    def find_positions(contents: pa.Array) -> DataFrame:
        found = members.filter(pc.is_in(members["content_hash"], value_set=contents))
        hashes = found["content_hash"].to_numpy(zero_copy_only=False).astype(str)
        # Of two members with one content, one is enough.
        firsts = pa.array(np.unique(hashes, return_index=True)[1])
        return tables.spark.createDataFrame(found.take(firsts).select(_POSITION))

    settings, path = search.settings, search.similarities
    return compare_few(asked.contents, find_positions, read_texts, settings, path, tables.spark)


def _join_evidence(outcome: Outcome, tables: _Tables) -> DataFrame:
    """Rows of NEAR_DUPLICATES: those of before of the other clusters, and the new ones."""
    names = NEAR_DUPLICATES.schema.names
    rows = tables.evidence.select(*names)
    if len(outcome.replaced):
        replaced = tables.spark.createDataFrame(pa.table({"cluster_id": outcome.replaced}))
        rows = rows.join(F.broadcast(replaced), "cluster_id", "left_anti").select(*names)
    if outcome.evidence.num_rows:
        rows = rows.unionByName(tables.spark.createDataFrame(outcome.evidence).select(*names))
    return rows


def _require_few(num_pairs: int, search: Search) -> None:
    if num_pairs > search.driver_edges:
        raise SearchAllError(f"more than {search.driver_edges:,} pairs may change")


def _hashes(rows: pa.Table) -> pa.Array:
    return rows["content_hash"].combine_chunks()


def _mark(values: pa.Array | pa.ChunkedArray) -> str:
    return fingerprint(sorted(values.to_pylist()))
