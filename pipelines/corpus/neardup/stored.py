"""What is computed of texts once and kept: signatures, and exact similarities of pairs.

Both tables only grow. Their keys are content hashes and the version of the hash functions, so a row never
becomes wrong. A new batch reads the texts that the tables lack, and no others.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.neardup.minhash import describe_scheme, sign
from pipelines.corpus.neardup.presets import Banding, NearDuplicates
from pipelines.corpus.neardup.shingles import HASH_VERSION, hash_shingles
from pipelines.pin import fingerprint, version_of
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
_CHANGED = "files changed while they were read, or a row of the table was deleted; run the stage again"


def add_signatures(
    members: DataFrame, read_texts: ReadTexts, settings: NearDuplicates, path: str
) -> tuple[DataFrame, int]:
    """(rows of SIGNATURES of the scheme, for the members and others; how many were computed now).

    Needs the positions of the members, and content_hash. Raises ChangedMeanwhileError if a text gave no
    signature.
    """
    spark, scheme = members.sparkSession, describe_scheme(settings.banding, settings.seed)
    is_comparable = F.col("scheme") == scheme
    known = SIGNATURES.read_newest(spark, path).where(is_comparable)
    with persisted(members.join(known, "content_hash", "left_anti")) as missing:
        num_missing, mark = _describe(missing, F.xxhash64("content_hash"))
        if num_missing:
            work = partial(_sign_texts, banding=settings.banding, seed=settings.seed)
            signed = read_texts(missing, work, _SIGNED).withColumn("scheme", F.lit(scheme))
            inputs = fingerprint("signatures", scheme, num_missing, mark, version_of(path))
            facts = {"scheme": scheme, "texts": num_missing}
            SIGNATURES.append(signed, path, fingerprint=inputs, facts=facts)
            known = SIGNATURES.read_newest(spark, path).where(is_comparable)
            if num_left := missing.join(known, "content_hash", "left_anti").count():
                raise ChangedMeanwhileError(
                    f"corpus: {num_left:,} texts have no signature in {path}: {_CHANGED}"
                )
    return known, num_missing


def add_similarities(
    pairs: DataFrame, members: DataFrame, read_texts: ReadTexts, settings: NearDuplicates, path: str
) -> tuple[DataFrame, int]:
    """(the pairs with jaccard, how many were compared now).

    Of the pairs, needs first and second (content hashes); of the members, positions and content_hash. Raises
    ChangedMeanwhileError if a pair could not be compared.
    """
    spark, version = pairs.sparkSession, f"{HASH_VERSION}/{settings.banding.ngram}gram"
    both, is_comparable = ["first", "second"], F.col("shingles") == version
    known = SIMILARITIES.read_newest(spark, path).where(is_comparable).select(*both, "jaccard")
    with persisted(pairs.select(*both).distinct().join(known, both, "left_anti")) as missing:
        num_missing, mark = _describe(missing, F.xxhash64(*both))
        if num_missing:
            ends = missing.select("first").union(missing.select("second")).toDF("content_hash").distinct()
            work = partial(_collect_sets, ngram=settings.banding.ngram)
            sets = read_texts(members.join(ends, "content_hash", "left_semi"), work, _SETS)
            compared = compare_sets(missing, sets).withColumn("shingles", F.lit(version))
            inputs = fingerprint("similarities", version, num_missing, mark, version_of(path))
            SIMILARITIES.append(compared, path, fingerprint=inputs, facts={"pairs": num_missing})
            known = SIMILARITIES.read_newest(spark, path).where(is_comparable).select(*both, "jaccard")
            if num_left := missing.join(known, both, "left_anti").count():
                raise ChangedMeanwhileError(
                    f"corpus: {num_left:,} pairs were not compared in {path}: {_CHANGED}"
                )
    return pairs.join(known, both), num_missing


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


def _describe(rows: DataFrame, row_hash: Column) -> tuple[int, int]:
    """(number of rows, a value that depends on all of them)."""
    found = rows.agg(F.count("*").alias("num_rows"), F.bit_xor(row_hash).alias("mark")).collect()[0]
    return found["num_rows"], found["mark"] or 0
