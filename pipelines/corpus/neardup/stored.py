"""What is computed of texts once and kept: signatures, and exact similarities of pairs.

Both tables only grow. Their keys are content hashes and the version of the hash functions, so a row never
becomes wrong. A new batch reads the texts that the tables lack, and no others.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.neardup.minhash import describe_scheme, sign
from pipelines.corpus.neardup.presets import Banding, NearDuplicates
from pipelines.corpus.neardup.shingles import HASH_VERSION, hash_shingles
from pipelines.pin import TableLog, fingerprint, open_log, version_of
from pipelines.spark import persisted
from pipelines.tables import SIGNATURES, SIMILARITIES

Texts = Iterator[tuple[str, str]]
"""(content hash, text)"""
Work = Callable[[Texts], Iterator[tuple[int, tuple]]]
ReadTexts = Callable[[DataFrame, Work, str], DataFrame]
"""(positions to read, what to make of the texts, DDL of the rows) -> rows; see `readers.files.read_texts`."""

_SIGNED = "content_hash STRING, num_shingles INT, buckets ARRAY<BIGINT>"
_SETS = "content_hash STRING, shingles ARRAY<BIGINT>"
_NO_BUCKETS = np.empty(0, np.int64)
_SIMILAR = pa.schema([("first", pa.string()), ("second", pa.string()), ("jaccard", pa.float64())])
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
        num_missing, mark = _describe(missing, F.xxhash64("content_hash"))
        if num_missing:
            write_signatures(missing, (num_missing, mark), read_texts, settings, path)
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


def write_signatures(
    missing: DataFrame,
    described: tuple[int, object],
    read_texts: ReadTexts,
    settings: NearDuplicates,
    path: str,
) -> None:
    """Compute the signatures of these members and add them to the table. `described`: their number, and a
    value that depends on all of them."""
    scheme = describe_scheme(settings.banding, settings.seed)
    work = partial(_sign_texts, banding=settings.banding, seed=settings.seed)
    signed = read_texts(missing, work, _SIGNED).withColumn("scheme", F.lit(scheme))
    inputs = fingerprint("signatures", scheme, *described, version_of(path))
    SIGNATURES.append(signed, path, fingerprint=inputs, facts={"scheme": scheme, "texts": described[0]})


def add_similarities(
    pairs: DataFrame, members: DataFrame, read_texts: ReadTexts, settings: NearDuplicates, path: str
) -> tuple[DataFrame, int]:
    """(the pairs with jaccard, how many were compared now).

    Of the pairs, needs first and second (content hashes); of the members, positions and content_hash. Raises
    ChangedMeanwhileError if a pair could not be compared.
    """
    spark, both = pairs.sparkSession, ["first", "second"]
    known = read_similarities(spark, path, settings)
    with persisted(pairs.select(*both).distinct().join(known, both, "left_anti")) as missing:
        num_missing, mark = _describe(missing, F.xxhash64(*both))
        if num_missing:
            ends = missing.select("first").union(missing.select("second")).toDF("content_hash").distinct()
            positions = members.join(ends, "content_hash", "left_semi")
            write_similarities(missing, (num_missing, mark), positions, read_texts, settings, path)
            known = read_similarities(spark, path, settings)
            require_complete(missing.join(known, both, "left_anti").count(), "pairs", path)
    return pairs.join(known, both), num_missing


def compare_few(
    pairs: pa.Table,
    find_positions: Callable[[pa.Array], DataFrame],
    read_texts: ReadTexts,
    settings: NearDuplicates,
    path: str,
    spark: SparkSession,
) -> tuple[npt.NDArray[np.float64], int]:
    """(the similarity of each pair, how many were compared now), of pairs that the driver holds.

    `pairs`: first and second (content hashes), each pair once. `find_positions` gives the position of one
    member of each of the contents. Raises ChangedMeanwhileError if a pair could not be compared.
    """
    if not pairs.num_rows:
        return np.empty(0), 0
    wanted = _name_pairs(pairs)

    def look_up() -> pa.Array:
        """Of each pair, its similarity; null = not known."""
        asked = F.broadcast(spark.createDataFrame(pairs.select(["first", "second"])))
        rows = read_similarities(spark, path, settings).join(asked, ["first", "second"], "left_semi")
        found = rows.toArrow().select(_SIMILAR.names).cast(_SIMILAR)
        return found["jaccard"].combine_chunks().take(pc.index_in(wanted, value_set=_name_pairs(found)))

    known = look_up()
    missing = pairs.filter(pc.is_null(known)).select(["first", "second"])
    if missing.num_rows:
        ends = pa.chunked_array([*missing["first"].chunks, *missing["second"].chunks], pa.string())
        described = missing.num_rows, fingerprint(sorted(_name_pairs(missing).to_pylist()))
        rows, positions = spark.createDataFrame(missing), find_positions(pc.unique(ends))
        write_similarities(rows, described, positions, read_texts, settings, path)
        known = look_up()
        require_complete(known.null_count, "pairs", path)
    return np.asarray(known.to_numpy(zero_copy_only=False), np.float64), missing.num_rows


def read_similarities(spark: SparkSession, path: str, settings: NearDuplicates) -> DataFrame:
    """first, second and jaccard of the rows of SIMILARITIES that have these shingles."""
    known = SIMILARITIES.read_newest(spark, path).where(F.col("shingles") == _name_shingles(settings))
    return known.select("first", "second", "jaccard")


def write_similarities(
    missing: DataFrame,
    described: tuple[int, object],
    positions: DataFrame,
    read_texts: ReadTexts,
    settings: NearDuplicates,
    path: str,
) -> None:
    """Compare these pairs of contents and add their similarities to the table. `positions` are those of one
    member of each content; `described` as in `write_signatures`."""
    version = _name_shingles(settings)
    work = partial(_collect_sets, ngram=settings.banding.ngram)
    inputs = fingerprint("similarities", version, *described, version_of(path))
    with persisted(read_texts(positions, work, _SETS)) as sets:  # each end of a pair is looked up in them
        compared = compare_sets(missing, sets).withColumn("shingles", F.lit(version))
        SIMILARITIES.append(compared, path, fingerprint=inputs, facts={"pairs": described[0]})


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


def compare_sets(pairs: DataFrame, sets: DataFrame) -> DataFrame:
    """first, second and the exact Jaccard similarity of their sets of shingles.

    In the JVM, because it holds one pair at a time: a batch of sets for Python could be of any size.
    """
    ones, others = sets.toDF("first", "ones"), sets.toDF("second", "others")
    num_common = F.size(F.array_intersect("ones", "others"))
    jaccard = num_common / (F.size("ones") + F.size("others") - num_common)
    return (
        pairs.join(ones, "first").join(others, "second").select("first", "second", jaccard.alias("jaccard"))
    )


def _sign_texts(texts: Texts, banding: Banding, seed: int) -> Iterator[tuple[int, tuple]]:
    hashes = deque[str]()

    def queue() -> Iterator[str]:
        for content_hash, text in texts:
            hashes.append(content_hash)
            yield text

    for signature in sign(queue(), banding, seed):
        buckets = _NO_BUCKETS if signature.buckets is None else signature.buckets
        yield 8 * len(buckets), (hashes.popleft(), signature.num_shingles, buckets)


def _collect_sets(texts: Texts, ngram: int) -> Iterator[tuple[int, tuple]]:
    for content_hash, text in texts:
        (shingles,) = hash_shingles([text], ngram)
        distinct = np.unique(shingles).view(np.int64)
        yield distinct.nbytes, (content_hash, distinct)


def _name_shingles(settings: NearDuplicates) -> str:
    return f"{HASH_VERSION}/{settings.banding.ngram}gram"


def _name_pairs(pairs: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(pairs["first"], pairs["second"], "/").combine_chunks()


def _describe(rows: DataFrame, row_hash: Column) -> tuple[int, int]:
    """(number of rows, a value that depends on all of them)."""
    found = rows.agg(F.count("*").alias("num_rows"), F.bit_xor(row_hash).alias("mark")).collect()[0]
    return found["num_rows"], found["mark"] or 0
