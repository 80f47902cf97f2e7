"""Score a whole table of documents on the cluster: each Python worker loads the model once, and rows stream
through it.

Memory of a worker: the model, one Arrow batch of documents and `SLICE_ROWS` texts. Executors need torch,
tokenizers and transformers, but no MLflow: the driver resolves the model once and ships its folder. The
driver loads no torch.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark import SparkFiles
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.schema import arrow_schema
from pipelines.scoring.ship import needs_shipping, ship_folder
from pipelines.tables import PREDICTIONS

if TYPE_CHECKING:
    from pipelines.registry.versions.resolve import ResolvedModel
    from pipelines.scoring.predict import Predictor

SLICE_ROWS = 512
"""Texts held as Python strings at once: enough to sort by length, little to hold."""
SCORED = """doc_id STRING NOT NULL, text STRING NOT NULL, label STRING, prediction STRING NOT NULL,
            score DOUBLE NOT NULL, latency_ms DOUBLE NOT NULL"""
"""What the workers return; the rest of PREDICTIONS is constant."""


def score_documents(
    documents: DataFrame,
    model_folder: Path,
    model: "ResolvedModel",
    *,
    documents_version: int,
    scored_at: datetime,
    batch_size: int = 32,
    num_threads: int = 1,
    generate: bool = True,
) -> DataFrame:
    """One prediction per document, as PREDICTIONS. Rows in = rows out, empty texts included. Lazy.

    `generate=False`: a language model writes no continuations, which take most of its time; its predictions
    are empty. `scored_at` is one time for the whole call. `num_threads` is torch's in each Python worker:
    give it spark.task.cpus.

    The same rows in the same partitions give the same prediction and score, to the last digit, on the same
    machine. Another partitioning changes the texts that share a batch, and so a score by float noise (below
    1e-5), and a class only where two classes tie within that noise.
    """
    spark = documents.sparkSession
    shipped = needs_shipping(spark)
    location = ship_folder(spark, model_folder) if shipped else str(Path(model_folder).resolve())
    scored = documents.select("doc_id", "text", "label").mapInArrow(
        _make_scorer(location, batch_size, num_threads, generate), SCORED
    )
    constants = {
        "model_name": F.lit(model.name),
        "model_version": F.lit(model.version),
        "run_id": F.lit(model.run_id),
        "documents_version": F.lit(documents_version).cast("bigint"),
        "scored_at": F.lit(scored_at).cast("timestamp"),
    }
    return scored.withColumns(constants).select(*PREDICTIONS.schema.names)


def partition_by_id(documents: DataFrame, *, num_partitions: int) -> DataFrame:
    """The documents in partitions that depend on their ids alone: scored twice, they share batches with the
    same texts and have the same digest.
    """
    return documents.repartition(num_partitions, "doc_id").sortWithinPartitions("doc_id")


def select_split(documents: DataFrame, split: str) -> DataFrame:
    """Kept and dropped documents of a split, or of all splits for "all"."""
    return documents if split == "all" else documents.where(F.col("split") == split)


def select_unscored(documents: DataFrame, predictions: DataFrame, model: "ResolvedModel") -> DataFrame:
    """The documents whose present text and label this model version has not scored yet."""
    scored = select_model(predictions, model).select("doc_id", "text", "label").alias("scored")
    same = [
        F.col(f"documents.{name}").eqNullSafe(F.col(f"scored.{name}")) for name in ("doc_id", "text", "label")
    ]
    return documents.alias("documents").join(scored, reduce(Column.__and__, same), "left_anti")


def select_model(predictions: DataFrame, model: "ResolvedModel") -> DataFrame:
    """The predictions of a model version, of the same run: a registry that was lost numbers its versions from
    1 again.
    """
    named = predictions.where((F.col("model_name") == model.name) & (F.col("model_version") == model.version))
    return named.where(F.col("run_id") == model.run_id)


def _make_scorer(
    location: str, batch_size: int, num_threads: int, generate: bool
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    schema = arrow_schema(SCORED)  # on the driver: the JVM parses DDL, and a worker has none

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, SLICE_ROWS):
                rows = batch.slice(start, SLICE_ROWS)
                yield _score_slice(rows, _load_predictor(location, num_threads), batch_size, generate, schema)

    return score


def _score_slice(
    rows: pa.RecordBatch, predictor: "Predictor", batch_size: int, generate: bool, schema: pa.Schema
) -> pa.RecordBatch:
    before = predictor.model_seconds
    predictions = predictor.predict(rows.column("text").to_pylist(), batch_size=batch_size, generate=generate)
    milliseconds = (predictor.model_seconds - before) * 1000 / max(1, rows.num_rows)
    columns = [
        *(rows.column(name) for name in ("doc_id", "text", "label")),
        pa.array([each.prediction for each in predictions], pa.string()),
        pa.array([each.score for each in predictions], pa.float64()),
        pa.array([milliseconds] * rows.num_rows, pa.float64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@lru_cache(maxsize=1)
def _load_predictor(location: str, num_threads: int) -> "Predictor":
    """One per Python worker, which runs many tasks; a new model replaces the one before."""
    from pipelines.scoring.predict import Predictor  # torch: in the workers only

    folder = Path(location) if Path(location).is_absolute() else Path(SparkFiles.get(location))
    return Predictor.load(folder, num_threads=num_threads)
