"""What is computed of texts once and kept: signatures here, similarities of pairs in `similar.py`.

Both tables only grow. Their keys are content hashes and the version of the hash functions, so a row never
becomes wrong. A new batch reads the texts that the tables lack, and no others.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.arrow_rows import read_few
from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.lookup import ArrowRows, Rows, SparkRows
from pipelines.corpus.neardup.minhash import describe_scheme, sign
from pipelines.corpus.neardup.presets import Banding, NearDuplicates
from pipelines.pin import TableLog, fingerprint, open_log
from pipelines.spark import persisted
from pipelines.tables import SIGNATURES

Texts = Iterator[tuple[str, str]]
"""(content hash, text)"""
Work = Callable[[Texts], Iterator[tuple[int, tuple]]]
ReadTexts = Callable[[DataFrame, Work, str], DataFrame]
"""(positions to read, what to make of the texts, DDL of the rows) -> rows; see `readers.files.read_texts`."""

_SIGNED = "content_hash STRING, num_shingles INT, buckets ARRAY<BIGINT>"
_NO_BUCKETS = np.empty(0, np.int64)
_BUCKETS = pa.schema([("content_hash", pa.string()), ("buckets", pa.list_(pa.int64()))])
MOST_HELD_BUCKETS = 10_000_000
"""Of the signatures that the driver holds: 80 MB."""
_CHANGED = "files changed while they were read, or a row of the table was deleted; run the stage again"


def add_signatures(
    members: DataFrame, read_texts: ReadTexts, settings: NearDuplicates, path: str
) -> tuple[DataFrame, int, TableLog | None]:
    """(rows of SIGNATURES of the scheme, for the members and others; how many were computed now; the log of
    the table at the version of the rows, None if there is no table).

    Needs the positions of the members, and content_hash. Raises ChangedMeanwhileError if a text gave no
    signature, or another program changed the table meanwhile: what is recorded as complete must be so.
    """
    spark, log = members.sparkSession, open_log(path)
    opened = -1 if log is None else log.version
    known = read_signatures(spark, path, log, settings)
    with persisted(members.join(known, "content_hash", "left_anti")) as missing:
        num_missing, mark = describe_rows(missing, F.xxhash64("content_hash"))
        if num_missing:
            write_signatures(missing, (num_missing, mark), read_texts, settings, path, log)
            log = open_log(path)
            if log is not None and log.last_foreign() > opened:
                raise ChangedMeanwhileError(f"corpus: another program changed {path}; run the stage again")
            known = read_signatures(spark, path, log, settings)
            require_complete(missing.join(known, "content_hash", "left_anti").count(), "signatures", path)
    return known, num_missing, log


def read_signatures(
    spark: SparkSession, path: str, log: TableLog | None, settings: NearDuplicates
) -> DataFrame:
    """The rows of SIGNATURES of the scheme, at the version of `log`."""
    scheme = describe_scheme(settings.banding, settings.seed)
    return SIGNATURES.read_newest(spark, path, log).where(F.col("scheme") == scheme)


def open_signatures(spark: SparkSession, log: TableLog | None, settings: NearDuplicates) -> Rows:
    """content_hash and buckets of the rows of the scheme, at the version of `log`, to be looked up."""
    if log is None:
        return ArrowRows(_BUCKETS.empty_table())
    scheme = describe_scheme(settings.banding, settings.seed)
    most = MOST_HELD_BUCKETS // settings.banding.num_bands
    held = read_few(log, _BUCKETS, most=most, where={"scheme": scheme})
    if held is not None:
        return ArrowRows(held)
    rows = read_signatures(spark, log.path, log, settings).select(*_BUCKETS.names)
    return SparkRows(rows, "content_hash")


def write_signatures(
    missing: DataFrame,
    described: tuple[int, object],
    read_texts: ReadTexts,
    settings: NearDuplicates,
    path: str,
    compared: TableLog | None,
) -> None:
    """Compute the signatures of these members and add them to the table. `described`: their number, and a
    value that depends on all of them. At the version of `compared`, the table has none of them."""
    scheme = describe_scheme(settings.banding, settings.seed)
    work = partial(_sign_texts, banding=settings.banding, seed=settings.seed)
    signed = read_texts(missing, work, _SIGNED).withColumn("scheme", F.lit(scheme))
    inputs = fingerprint("signatures", scheme, *described, version_of_log(compared))
    facts = {"scheme": scheme, "texts": described[0]}
    SIGNATURES.append(signed, path, fingerprint=inputs, facts=facts, compared=compared)


def require_complete(num_left: int, what: Literal["signatures", "pairs"], path: str) -> None:
    """Raises ChangedMeanwhileError if there are texts or pairs that were written and are not in the table."""
    if num_left:
        left = {"signatures": "texts have no signature in", "pairs": "pairs were not compared in"}[what]
        raise ChangedMeanwhileError(f"corpus: {num_left:,} {left} {path}: {_CHANGED}")


def describe_signed(log: TableLog | None, settings: NearDuplicates) -> dict[str, Any]:
    """What a later run must know to see whether the signatures that are there now are still there."""
    scheme = describe_scheme(settings.banding, settings.seed)
    return {} if log is None else {"scheme": scheme, "table_id": log.source.table_id, "version": log.version}


def are_signed(log: TableLog, before: Mapping[str, Any], settings: NearDuplicates) -> bool:
    """Whether the table has all signatures that it had as `before` was made by `describe_signed`: nobody but
    us has changed its rows since."""
    now = describe_signed(log, settings)
    if any(before.get(name) != now[name] for name in ("scheme", "table_id")):
        return False
    return log.last_foreign() <= before["version"] <= log.version


def _sign_texts(texts: Texts, banding: Banding, seed: int) -> Iterator[tuple[int, tuple]]:
    hashes = deque[str]()

    def queue() -> Iterator[str]:
        for content_hash, text in texts:
            hashes.append(content_hash)
            yield text

    for signature in sign(queue(), banding, seed):
        buckets = _NO_BUCKETS if signature.buckets is None else signature.buckets
        yield 8 * len(buckets), (hashes.popleft(), signature.num_shingles, buckets)


def version_of_log(log: TableLog | None) -> int:
    return -1 if log is None else log.version


def describe_rows(rows: DataFrame, row_hash: Column) -> tuple[int, int]:
    """(number of rows, a value that depends on all of them)."""
    found = rows.agg(F.count("*").alias("num_rows"), F.bit_xor(row_hash).alias("mark")).collect()[0]
    return found["num_rows"], found["mark"] or 0
