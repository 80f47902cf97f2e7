"""The exact similarity of pairs of texts: Jaccard, of their sets of shingles. Computed once and kept.

Few pairs are looked up and compared on the driver, many by joins. Both give the same rows.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.arrow_rows import read_few
from pipelines.corpus.few import send_rows
from pipelines.corpus.neardup.presets import NearDuplicates
from pipelines.corpus.neardup.shingles import HASH_VERSION, hash_shingles
from pipelines.corpus.neardup.stored import ReadTexts, Texts, describe_rows, require_complete, version_of_log
from pipelines.pin import TableLog, fingerprint, open_log
from pipelines.spark import persisted
from pipelines.tables import SIMILARITIES

_SETS = "content_hash STRING, shingles ARRAY<BIGINT>"
POSITION = ["doc_id", "content_hash", "task", "slice", "offset"]
"""Columns of a member that reading its text needs."""
_COMPARED = "first STRING, second STRING, jaccard DOUBLE"
MOST_CHARS = 64_000_000
"""Of texts whose shingles the driver compares: 100 MB of shingles in English, 500 MB in Chinese."""
MOST_PAIRED_CHARS = 1_000_000_000
"""Of both texts of each pair, added up over the pairs that the driver compares on one core."""
_SIMILAR = pa.schema([("first", pa.string()), ("second", pa.string()), ("jaccard", pa.float64())])


def add_similarities(
    pairs: DataFrame, members: DataFrame, read_texts: ReadTexts, settings: NearDuplicates, path: str
) -> tuple[DataFrame, int]:
    """(the pairs with jaccard, how many were compared now).

    Of the pairs, needs first and second (content hashes); of the members, positions and content_hash. Raises
    ChangedMeanwhileError if a pair could not be compared.
    """
    spark, both, log = pairs.sparkSession, ["first", "second"], open_log(path)
    known = read_similarities(spark, path, settings, log)
    with persisted(pairs.select(*both).distinct().join(known, both, "left_anti")) as missing:
        num_missing, mark = describe_rows(missing, F.xxhash64(*both))
        if num_missing:
            ends = missing.select("first").union(missing.select("second")).toDF("content_hash").distinct()
            positions = members.join(ends, "content_hash", "left_semi")
            write_similarities(missing, (num_missing, mark), positions, read_texts, settings, path, log)
            known = read_similarities(spark, path, settings, open_log(path))
            require_complete(missing.join(known, both, "left_anti").count(), "pairs", path)
    return pairs.join(known, both), num_missing


def compare_few(
    pairs: pa.Table,
    members: pa.Table,
    read_texts: ReadTexts,
    settings: NearDuplicates,
    path: str,
    spark: SparkSession,
) -> tuple[npt.NDArray[np.float64], int]:
    """(the similarity of each pair, how many were compared now), of pairs that the driver holds.

    `pairs`: first and second (content hashes), each pair once. Of `members`, which have all of the contents,
    needs POSITION and num_chars. The driver compares sets of shingles if it `can_compare` them; otherwise
    executors do. Raises ChangedMeanwhileError if a pair could not be compared.
    """
    if not pairs.num_rows:
        return np.empty(0), 0
    log = open_log(path)
    known = _look_up(spark, pairs, settings, path, log)
    missing = pairs.filter(pc.is_null(known)).select(["first", "second"])
    if missing.num_rows:
        ends = pa.chunked_array([*missing["first"].chunks, *missing["second"].chunks], pa.string())
        described = missing.num_rows, fingerprint(sorted(_name_pairs(missing).to_pylist()))
        found = members.filter(pc.is_in(members["content_hash"], value_set=pc.unique(ends)))
        # Of two members with one content, one is enough.
        hashes = found["content_hash"].to_numpy(zero_copy_only=False).astype(str)
        found = found.take(pa.array(np.unique(hashes, return_index=True)[1]))
        positions = spark.createDataFrame(found.select(POSITION))
        if can_compare(missing, found):
            sets = _read_sets(positions, read_texts, settings).toArrow()
            rows = send_rows(spark, compare_held(missing, sets), _COMPARED)
            _append_similarities(rows, described, settings, path, log)
        else:
            rows = spark.createDataFrame(missing)
            write_similarities(rows, described, positions, read_texts, settings, path, log)
        known = _look_up(spark, pairs, settings, path, open_log(path))
        require_complete(known.null_count, "pairs", path)
    return np.asarray(known.to_numpy(zero_copy_only=False), np.float64), missing.num_rows


def _look_up(
    spark: SparkSession, pairs: pa.Table, settings: NearDuplicates, path: str, log: TableLog | None
) -> pa.Array:
    """Of each pair, its similarity at the version of `log`; null = not known."""
    if log is None:
        return pa.nulls(pairs.num_rows, pa.float64())
    found = read_few(log, _SIMILAR, where={"shingles": _name_shingles(settings)})
    if found is None:
        asked = F.broadcast(spark.createDataFrame(pairs.select(["first", "second"])))
        rows = read_similarities(spark, path, settings, log).join(asked, ["first", "second"], "left_semi")
        found = rows.toArrow().select(_SIMILAR.names).cast(_SIMILAR)
    places = pc.index_in(_name_pairs(pairs), value_set=_name_pairs(found))
    return found["jaccard"].combine_chunks().take(places)


def read_similarities(
    spark: SparkSession, path: str, settings: NearDuplicates, log: TableLog | None
) -> DataFrame:
    """first, second and jaccard of the rows of SIMILARITIES that have these shingles, at the version of
    `log`."""
    known = SIMILARITIES.read_newest(spark, path, log).where(F.col("shingles") == _name_shingles(settings))
    return known.select("first", "second", "jaccard")


def write_similarities(
    missing: DataFrame,
    described: tuple[int, object],
    positions: DataFrame,
    read_texts: ReadTexts,
    settings: NearDuplicates,
    path: str,
    compared: TableLog | None,
) -> None:
    """Compare these pairs of contents and add their similarities to the table. `positions` are those of one
    member of each content; `described` and `compared` as in `write_signatures`."""
    # Each end of a pair is looked up in the sets.
    with persisted(_read_sets(positions, read_texts, settings)) as sets:
        _append_similarities(compare_sets(missing, sets), described, settings, path, compared)


def _read_sets(positions: DataFrame, read_texts: ReadTexts, settings: NearDuplicates) -> DataFrame:
    return read_texts(positions, partial(_collect_sets, ngram=settings.banding.ngram), _SETS)


def _append_similarities(
    rows: DataFrame,
    described: tuple[int, object],
    settings: NearDuplicates,
    path: str,
    compared: TableLog | None,
) -> None:
    version, facts = _name_shingles(settings), {"pairs": described[0]}
    inputs = fingerprint("similarities", version, *described, version_of_log(compared))
    rows = rows.withColumn("shingles", F.lit(version))
    SIMILARITIES.append(rows, path, fingerprint=inputs, facts=facts, compared=compared)


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


def can_compare(pairs: pa.Table, texts: pa.Table) -> bool:
    """Whether the driver has memory and time to compare these pairs: up to MOST_CHARS in the texts and up to
    MOST_PAIRED_CHARS in the pairs. `texts`: content_hash and num_chars, each content once."""
    lengths, hashes = (texts[name].combine_chunks() for name in ("num_chars", "content_hash"))
    places = (pc.index_in(pairs[name], value_set=hashes) for name in ("first", "second"))
    paired = sum(pc.sum(lengths.take(each.combine_chunks())).as_py() or 0 for each in places)
    return (pc.sum(lengths).as_py() or 0) <= MOST_CHARS and paired <= MOST_PAIRED_CHARS


def compare_held(pairs: pa.Table, sets: pa.Table) -> pa.Table:
    """The same on the driver, as columns of SIMILARITIES. A pair without both of its sets is left out."""
    lists, hashes = sets["shingles"].combine_chunks(), sets["content_hash"].combine_chunks()
    values, starts = lists.values.to_numpy(), lists.offsets.to_numpy()
    is_there = pc.and_(*(pc.is_in(pairs[name], value_set=hashes) for name in ("first", "second")))
    pairs, jaccards = pairs.filter(is_there), []
    ends = (pc.index_in(pairs[name], value_set=hashes).to_pylist() for name in ("first", "second"))
    for one, other in zip(*ends, strict=True):
        ones, others = (values[starts[place] : starts[place + 1]] for place in (one, other))
        num_common = len(np.intersect1d(ones, others, assume_unique=True))
        jaccards.append(num_common / (len(ones) + len(others) - num_common))
    return pairs.append_column("jaccard", pa.array(jaccards, pa.float64()))


def _collect_sets(texts: Texts, ngram: int) -> Iterator[tuple[int, tuple]]:
    for content_hash, text in texts:
        (shingles,) = hash_shingles([text], ngram)
        distinct = np.unique(shingles).view(np.int64)
        yield distinct.nbytes, (content_hash, distinct)


def _name_shingles(settings: NearDuplicates) -> str:
    return f"{HASH_VERSION}/{settings.banding.ngram}gram"


def _name_pairs(pairs: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(pairs["first"], pairs["second"], "/").combine_chunks()
