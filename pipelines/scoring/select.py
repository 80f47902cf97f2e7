"""Which documents a model version still has to score, and how they are dealt to tasks.

Decided from ids and hashes; texts are read once, and move once, to the task that scores them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.delta import ContractError
from pipelines.pin import open_log
from pipelines.spark import persisted
from pipelines.tables import PREDICTIONS

PARTITION_ROWS, PARTITION_BYTES = 512, 1 << 20
"""Most documents, and most bytes of text, of one task: some seconds to a minute of a small model on a CPU."""
MIN_PARTITIONS, MAX_PARTITIONS = 4, 8192
"""Above the maximum, tasks become longer: the driver keeps the state of every task."""
MAX_BROADCAST_ROWS = 200_000
"""Ids that every executor gets whole: about 20 MB."""
SAME = ("doc_id", "content_hash", "label", "adapter")
"""A document whose values here are those of a prediction was scored as it is now."""


class ModelVersion(Protocol):
    """What names the predictions of one model version."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def run_id(self) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Documents to score, dealt to tasks."""

    rows: DataFrame
    num_rows: int
    num_before: int
    """Predictions that this model version has already."""


def select_split(documents: DataFrame, split: str) -> DataFrame:
    """Kept and dropped documents of a split, or of all splits for "all"."""
    return documents if split == "all" else documents.where(F.col("split") == split)


def select_model(predictions: DataFrame, model: ModelVersion) -> DataFrame:
    """The predictions of a model version, of the same run: a registry that was lost numbers its versions from
    1 again.
    """
    named = predictions.where((F.col("model_name") == model.name) & (F.col("model_version") == model.version))
    return named.where(F.col("run_id") == model.run_id)


def select_unscored(documents: DataFrame, scored: DataFrame) -> DataFrame:
    """Documents without a prediction of their present content and label, by the adapter that they name now,
    in `scored`; null equals null. No column beside `SAME` decides.
    """
    left, right = documents.alias("documents"), scored.select(*SAME).alias("scored")
    same = [F.col(f"documents.{name}").eqNullSafe(F.col(f"scored.{name}")) for name in SAME]
    return left.join(right, reduce(Column.__and__, same), "left_anti")


def read_predictions(spark: SparkSession, path: str) -> DataFrame | None:
    """The predictions table; None if there is none.

    Raises ContractError for a table of an earlier Distributary, before anything is scored.
    """
    log = open_log(path)
    if log is None:
        return None
    wanted = [name for name in PREDICTIONS.schema.names if name not in PREDICTIONS.later]
    missing = [name for name in wanted if name not in log.source.columns]
    if missing:
        raise ContractError(
            f"predictions at {path} was written by an earlier Distributary: it has no column "
            f"{', '.join(missing)}; move or delete the table and run: distributary scoring"
        )
    return PREDICTIONS.read(spark, path, log.version)


@contextmanager
def choose_documents(
    documents: DataFrame, predictions: DataFrame | None, model: ModelVersion, *, num_partitions: int | None
) -> Iterator[Chosen]:
    """The documents that `model` has not scored yet, dealt by `partition_by_id`.

    `num_partitions` null: from the rows and bytes to score, never from the cluster, so that a second scoring
    of equal tables has equal batches. One job over ids and sizes, and one that counts earlier predictions.
    """
    if predictions is None:
        num_rows, num_bytes = _measure(documents)
        num_tasks = num_partitions or count_partitions(num_rows, num_bytes)
        yield Chosen(rows=partition_by_id(documents, num_tasks), num_rows=num_rows, num_before=0)
        return
    scored = select_model(predictions, model)
    with persisted(select_unscored(documents.select(*SAME, "num_bytes"), scored)) as missing:
        num_rows, num_bytes = _measure(missing)
        num_tasks = num_partitions or count_partitions(num_rows, num_bytes)
        rows = _keep(documents, missing.select("doc_id"), num_rows, num_tasks)
        yield Chosen(rows=rows, num_rows=num_rows, num_before=scored.count())


def deal(documents: DataFrame) -> DataFrame:
    """All documents in partitions of bounded rows and bytes, which depend on the documents alone."""
    return partition_by_id(documents, count_partitions(*_measure(documents)))


def count_partitions(num_rows: int, num_bytes: int) -> int:
    """Tasks for so many documents with so many bytes of text."""
    wanted = max(-(-num_rows // PARTITION_ROWS), -(-num_bytes // PARTITION_BYTES))
    return min(MAX_PARTITIONS, max(MIN_PARTITIONS, wanted))


def partition_by_id(documents: DataFrame, num_partitions: int) -> DataFrame:
    """The documents in partitions that depend on their ids alone: scored twice, they share batches with the
    same texts and have the same digest.
    """
    return documents.repartition(num_partitions, "doc_id").sortWithinPartitions("doc_id")


def _keep(documents: DataFrame, ids: DataFrame, num_ids: int, num_partitions: int) -> DataFrame:
    """The documents with these ids, dealt to tasks. Only texts to score move, or, if they are many, each text
    once.
    """
    if num_ids <= MAX_BROADCAST_ROWS:
        return partition_by_id(documents.join(F.broadcast(ids), "doc_id", "left_semi"), num_partitions)
    # Both sides are dealt alike, so the join needs no further exchange.
    dealt, wanted = (rows.repartition(num_partitions, "doc_id") for rows in (documents, ids))
    return dealt.join(wanted, "doc_id", "left_semi").sortWithinPartitions("doc_id")


def _measure(documents: DataFrame) -> tuple[int, int]:
    """(rows, bytes of text); reads one narrow column."""
    totals = documents.agg(F.count("*").alias("rows"), F.sum("num_bytes").alias("bytes")).collect()[0]
    return int(totals["rows"]), int(totals["bytes"] or 0)
