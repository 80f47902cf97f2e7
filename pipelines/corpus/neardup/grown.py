"""Near duplicates after new files: only what these can change is looked at. The result is that of a search
among all members. Few members are looked at in the same way if there were none before.

`affected.py` says which members these are, and why; `before.py` has its questions to the tables. Pairs,
clusters and survivors are found on the driver; executors read texts only for new signatures and new pairs.
"""

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.few import bring_rows, send_rows
from pipelines.corpus.lookup import ArrowRows, SparkRows
from pipelines.corpus.neardup.affected import ROWS, SearchAllError, find_affected, merge_changed
from pipelines.corpus.neardup.before import Before, Tables, add_order, require_signed
from pipelines.corpus.neardup.find import LOOKED_AT, SIGNED_BY, Found, Search
from pipelines.corpus.neardup.outcome import REMOVED_DDL, Outcome, ask_pairs, decide
from pipelines.corpus.neardup.similar import POSITION, compare_few
from pipelines.corpus.neardup.stored import ReadTexts, describe_signed, require_complete, write_signatures
from pipelines.pin import TableLog, fingerprint, open_log
from pipelines.tables import NEAR_DUPLICATES

_FROM_DOCUMENTS = ("shard", "duplicate_of", "drop_reason")
_GIVEN = pa.schema([column for column in ROWS if column.name != "order"])
"""Columns of ROWS before their order is known."""
_REVISITED_DDL = """doc_id STRING, source STRING, file STRING, offset BIGINT, content_hash STRING,
num_chars INT, split STRING, duplicate_of STRING, drop_reason STRING, shard STRING"""


def search_changed(arrived: DataFrame, before: Before, read_texts: ReadTexts, search: Search) -> Found:
    """The near duplicates of the corpus with new files. `arrived` are the members now that have a content of
    the new files: new documents, and earlier ones that are still the first of their copies.

    Raises SearchAllError if it takes a search among all members, ChangedMeanwhileError if texts changed while
    they were read.
    """
    settings = search.settings
    search.report(f"near duplicates: computing signatures{' of new texts' if before.has_documents else ''}")
    tables = Tables(before, search, arrived.sparkSession)
    rows = _select_rows(arrived, now=True)
    if before.changed is None:
        found = rows.toArrow()
    else:
        found = bring_rows(rows.unionByName(_select_rows(before.changed, now=False)), tables.left)
    changed = merge_changed(add_order(tables.take(found), search))
    signatures, num_signed, log = _sign(changed, before, read_texts, search, tables)

    search.report(
        f"near duplicates: looking for {'what the new texts change' if before.has_documents else 'pairs'}"
    )
    try:
        affected = find_affected(changed, signatures, tables, settings)
        _require_few(max(len(affected.before), len(affected.now)), search)
        asked = ask_pairs(affected)
        _require_few(asked.contents.num_rows, search)
    except SearchAllError as reason:
        reason.num_signed = num_signed
        raise

    search.report(f"near duplicates: comparing {asked.contents.num_rows:,} pairs")
    jaccards, num_compared = compare_few(
        asked.contents, affected.members, read_texts, settings, search.similarities, tables.spark
    )
    outcome = decide(affected, asked, jaccards, settings.min_jaccard, before.record)
    return Found(
        removed=send_rows(tables.spark, outcome.removed, REMOVED_DDL),
        evidence=_join_evidence(outcome, tables),
        facts={"signed": num_signed, "pairs_compared": num_compared, **outcome.facts},
        record={
            SIGNED_BY: describe_signed(log, settings),
            LOOKED_AT: pc.sum(affected.members["now"]).as_py() or 0,
        },
        revisited=send_rows(tables.spark, outcome.revisited, _REVISITED_DDL),
        has_revisited=outcome.revisited.num_rows > 0,
    )


def _select_rows(documents: DataFrame, *, now: bool) -> DataFrame:
    """Columns _GIVEN. Documents with the column shard were members before."""
    kinds = {"task": "int", "slice": "int", **dict.fromkeys(_FROM_DOCUMENTS, "string")}
    flags = {"was": F.lit("shard" in documents.columns), "now": F.lit(now)}
    missing = {name: F.lit(None).cast(kinds[name]) for name in kinds if name not in documents.columns}
    return documents.withColumns(flags | missing).select(*_GIVEN.names)


def _sign(
    changed: pa.Table, before: Before, read_texts: ReadTexts, search: Search, tables: Tables
) -> tuple[pa.Table, int, TableLog | None]:
    """(the signatures of the changed members, how many were computed now, the log of their table)"""
    log, path = before.signatures, search.signatures
    contents = pc.unique(changed["content_hash"])
    found = tables.find_signatures(contents)
    is_known = pc.is_in(changed["content_hash"], value_set=_hashes(found))
    missing = changed.filter(pc.and_(changed["now"], pc.invert(is_known)))
    if missing.num_rows:
        described = missing.num_rows, _mark(missing["content_hash"])
        positions = tables.spark.createDataFrame(missing.select(POSITION))
        write_signatures(positions, described, read_texts, search.settings, path, log)
        log, opened = open_log(path), -1 if log is None else log.version
        if before.changed is not None:
            require_signed(log, before.record, search)
        elif log is not None and log.last_foreign() > opened:
            raise ChangedMeanwhileError(f"corpus: another program changed {path}; run the stage again")
        tables.open_signatures(log)
        found = tables.find_signatures(contents)
    left = changed.filter(pc.invert(pc.is_in(changed["content_hash"], value_set=_hashes(found))))
    require_complete(len(pc.unique(left.filter(left["now"])["content_hash"])), "signatures", path)
    if left.num_rows:
        raise SearchAllError(f"{search.signatures} lacks {left.num_rows:,} signatures of earlier texts")
    return found, missing.num_rows, log


def _join_evidence(outcome: Outcome, tables: Tables) -> DataFrame:
    """Rows of NEAR_DUPLICATES: those of before of the other clusters, and the new ones."""
    names, evidence = NEAR_DUPLICATES.schema.names, tables.before.evidence
    if isinstance(evidence, ArrowRows):
        is_replaced = pc.is_in(evidence.rows["cluster_id"], value_set=outcome.replaced)
        both = [evidence.rows.filter(pc.invert(is_replaced)), outcome.evidence.select(names)]
        schema = NEAR_DUPLICATES.arrow_schema
        whole = pa.concat_tables([each.cast(schema) for each in both])
        return send_rows(tables.spark, whole, NEAR_DUPLICATES.schema)
    assert isinstance(evidence, SparkRows), "there are two kinds"
    rows = evidence.rows
    if len(outcome.replaced):
        replaced = tables.spark.createDataFrame(pa.table({"cluster_id": outcome.replaced}))
        rows = rows.join(F.broadcast(replaced), "cluster_id", "left_anti").select(*names)
    if outcome.evidence.num_rows:
        rows = rows.unionByName(tables.spark.createDataFrame(outcome.evidence).select(*names))
    return rows


def _require_few(num_pairs: int, search: Search) -> None:
    if num_pairs > search.driver_edges:
        raise SearchAllError(f"more than {search.driver_edges:,} pairs must be compared")


def _hashes(rows: pa.Table) -> pa.Array:
    return rows["content_hash"].combine_chunks()


def _mark(values: pa.Array | pa.ChunkedArray) -> str:
    return fingerprint(sorted(values.to_pylist()))
