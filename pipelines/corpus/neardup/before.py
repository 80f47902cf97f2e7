"""What there is of the search that gave the earlier documents: its tables, and their answers to the questions
of `affected.py`.

Narrow columns are in the driver's memory if a table is small. Otherwise each question is a scan with values
that every executor gets, so nothing that grows with the corpus is shuffled. The answers are small, come to
the driver, and end the plan of their query.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession

from pipelines.arrow_rows import read_few
from pipelines.corpus.few import MOST_ROWS
from pipelines.corpus.lookup import ArrowRows, Rows, SparkRows
from pipelines.corpus.neardup.affected import CLUSTERED, ROWS, SIGNED, SearchAllError
from pipelines.corpus.neardup.candidates import order_rows
from pipelines.corpus.neardup.find import SIGNED_BY, Search
from pipelines.corpus.neardup.outcome import FACTS
from pipelines.corpus.neardup.stored import are_signed, open_signatures
from pipelines.pin import TableLog, open_log
from pipelines.tables import NEAR_DUPLICATES

MOST_MEMBERS = 500_000
"""Rows of all answers together that the driver takes: about 200 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """The search of the earlier documents. Rows have the columns of `Earlier.read_rows`."""

    members: Rows
    """All members."""
    changed: DataFrame | None
    """Those of them with a content that new files have; None = there are no earlier documents."""
    evidence: Rows
    """Rows of NEAR_DUPLICATES of the version that belongs to the documents."""
    record: Mapping[str, Any]
    """Its facts."""
    signatures: TableLog | None
    """None = there is no table."""

    @property
    def has_documents(self) -> bool:
        return self.changed is not None


def open_nothing(search: Search) -> Before:
    """What there is before the first documents."""
    return Before(
        members=ArrowRows(ROWS.empty_table()),
        changed=None,
        evidence=ArrowRows(NEAR_DUPLICATES.arrow_schema.empty_table()),
        record=dict.fromkeys(FACTS, 0),
        signatures=open_log(search.signatures),
    )


def open_before(members: Rows, changed: DataFrame, search: Search, made_from: str) -> Before:
    """What there is of the search that gave the documents with this fingerprint.

    Raises SearchAllError if its evidence is not the newest, or does not say what it was made with.
    """
    log = open_log(search.evidence)
    found = log.pin() if log else None
    if log is None or found is None or found.fingerprint != made_from:
        raise SearchAllError(f"the evidence in {search.evidence} is not that of the documents")
    signatures = require_signed(open_log(search.signatures), found.facts, search)
    evidence = _open_evidence(changed.sparkSession, log)
    return Before(
        members=members, changed=changed, evidence=evidence, record=found.facts, signatures=signatures
    )


class Tables:
    """`affected.Lookups`: the answers of the tables."""

    def __init__(self, before: Before, search: Search, spark: SparkSession) -> None:
        self.before, self.search, self.spark = before, search, spark
        self.open_signatures(before.signatures)
        self.left = min(MOST_MEMBERS, search.driver_buckets // search.settings.banding.num_bands)

    def open_signatures(self, log: TableLog | None) -> None:
        self.signed: Rows = ArrowRows(
            SIGNED.empty_table()
        )  # those of before are not held beside the new ones
        self.signed = open_signatures(self.spark, log, self.search.settings)

    def take(self, found: pa.Table | None) -> pa.Table:
        """The rows. Raises SearchAllError if they are too many, with those taken before."""
        if found is None:
            raise SearchAllError("more members may change than the driver takes")
        self.left -= found.num_rows
        return found

    def find(self, rows: Rows, column: str, values: pa.Array) -> pa.Table:
        """The rows that have one of the values. Raises SearchAllError if rows or values are too many."""
        if len(values) > self.search.driver_buckets:
            raise SearchAllError(f"more than {self.search.driver_buckets:,} buckets or pairs may change")
        return self.take(rows.find(column, values, self.left))

    def find_sharing(self, buckets: pa.Array) -> pa.Table:
        if self.before.changed is None or not len(buckets):  # signatures without members
            return SIGNED.empty_table()
        return self.find(self.signed, "buckets", buckets).select(SIGNED.names).cast(SIGNED)

    def find_signatures(self, contents: pa.Array) -> pa.Table:
        if not len(contents):
            return SIGNED.empty_table()
        found = self.signed.find("content_hash", contents, len(contents))
        if found is None:
            raise SearchAllError(f"{self.search.signatures} has several signatures of a text")
        return found.select(SIGNED.names).cast(SIGNED)

    def find_members(self, contents: pa.Array) -> pa.Table:
        return self._find_members("content_hash", contents)

    def find_named(self, doc_ids: pa.Array) -> pa.Table:
        return self._find_members("doc_id", doc_ids)

    def _find_members(self, column: str, values: pa.Array) -> pa.Table:
        if not len(values):
            return ROWS.empty_table()
        found = self.find(self.before.members, column, values)
        yes = pa.repeat(pa.scalar(True), found.num_rows)
        return add_order(found.append_column("was", yes).append_column("now", yes), self.search)

    def find_clusters(self, doc_ids: pa.Array) -> pa.Table:
        if not len(doc_ids):
            return CLUSTERED.empty_table()
        touched = pc.unique(self.find(self.before.evidence, "doc_id", doc_ids)["cluster_id"])
        if not len(touched):
            return CLUSTERED.empty_table()
        found = self.find(self.before.evidence, "cluster_id", touched)
        return found.select(CLUSTERED.names).cast(CLUSTERED)


def _open_evidence(spark: SparkSession, log: TableLog) -> Rows:
    held = read_few(log, NEAR_DUPLICATES.arrow_schema, most=MOST_ROWS)  # they are sent out again
    if held is not None:
        return ArrowRows(held)
    return SparkRows(NEAR_DUPLICATES.read_newest(spark, log.path, log), "doc_id")


def add_order(rows: pa.Table, search: Search) -> pa.Table:
    """ROWS. Earlier documents lack task and slice."""
    for name in ("task", "slice"):
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.int32()))
    return rows.append_column("order", order_rows(rows, search.settings)).select(ROWS.names).cast(ROWS)


def require_signed(log: TableLog | None, record: Mapping[str, Any], search: Search) -> TableLog:
    if not (signed_by := record.get(SIGNED_BY)):
        raise SearchAllError(f"the evidence in {search.evidence} does not say which signatures it had")
    if log is None or not are_signed(log, signed_by, search.settings):
        raise SearchAllError(
            f"{search.signatures} may not have all signatures of earlier texts: another program changed it, "
            "or the hash functions are new"
        )
    return log
