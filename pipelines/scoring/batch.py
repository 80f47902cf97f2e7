"""Score a whole table of documents on the cluster: each Python worker loads the model once, rows stream through it.

Memory of a worker: the model, one Arrow batch of documents and `SLICE_ROWS` texts. Executors need torch, tokenizers and
transformers, but no MLflow: the driver resolves the model once and ships its folder.
"""

import atexit
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark import SparkContext, SparkFiles
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.pin import fingerprint
from pipelines.registry.gate.decide import Measurement
from pipelines.scoring.predict import Predictor
from pipelines.storage import folder_digest
from pipelines.tables import PREDICTIONS

if TYPE_CHECKING:
    from pipelines.registry.versions.resolve import ResolvedModel

SLICE_ROWS = 512
"""Texts held as Python strings at once: enough to sort by length, little to hold."""
SCORED = """doc_id STRING NOT NULL, text STRING NOT NULL, label STRING, prediction STRING NOT NULL, score DOUBLE NOT NULL,
            latency_ms DOUBLE NOT NULL"""
SCORED_ARROW = pa.schema(
    [
        ("doc_id", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("prediction", pa.string()),
        ("score", pa.float64()),
        ("latency_ms", pa.float64()),
    ]
)


def score_documents(
    documents: DataFrame,
    model_folder: Path,
    model: "ResolvedModel",
    *,
    documents_version: int,
    scored_at: datetime,
    batch_size: int = 32,
    num_threads: int = 1,
    continues: bool = True,
) -> DataFrame:
    """One prediction a document, as PREDICTIONS; rows in = rows out, empty texts included. Lazy.

    `continues`: whether a language model writes on, which takes most of its time; without, its predictions are empty.

    The same rows in the same partitions give the same prediction and score, to the last digit, on the same machine. Another
    partitioning changes the neighbours of a text in its batch and so its score by float noise (below 1e-5), its class only
    where two classes tie within that noise. `scored_at` is one time for the whole call; `num_threads` is torch's in each Python
    worker: give it spark.task.cpus.
    """
    context = documents.sparkSession.sparkContext
    place = ship(context, model_folder) if needs_shipping(context) else str(Path(model_folder).resolve())
    scored = documents.select("doc_id", "text", "label").mapInArrow(
        _scorer(place, batch_size, num_threads, continues), SCORED
    )
    constants = {
        "model_name": F.lit(model.name),
        "model_version": F.lit(model.version),
        "run_id": F.lit(model.run_id),
        "documents_version": F.lit(documents_version).cast("bigint"),
        "scored_at": F.lit(scored_at).cast("timestamp"),
    }
    return scored.withColumns(constants).select(*PREDICTIONS.schema.names)


def accuracy(predictions: DataFrame) -> float:
    """Share of labelled documents whose prediction is their label. Raises ValueError if no document has a label."""
    labelled = predictions.where("label IS NOT NULL")
    totals = labelled.agg(
        F.count("*").alias("num"), F.count_if(F.expr("label = prediction")).alias("right")
    ).collect()[0]
    if not totals["num"]:
        raise ValueError(
            "no scored document has a label, so there is no accuracy; score documents of a labelled split"
        )
    return float(totals["right"] / totals["num"])


def bits_per_byte(predictions: DataFrame) -> float:
    """Bits per UTF-8 byte over all texts: long texts weigh more. Raises ValueError if there is no byte."""
    num_bytes = F.octet_length("text")
    totals = predictions.agg(
        F.sum(num_bytes).alias("num_bytes"), F.sum(F.col("score") * num_bytes).alias("bits")
    ).collect()[0]
    if not totals["num_bytes"]:
        raise ValueError(
            "the scored documents hold no text, so there are no bits per byte; score a split that is not empty"
        )
    return float(totals["bits"] / totals["num_bytes"])


def dealt(documents: DataFrame, *, num_partitions: int) -> DataFrame:
    """The documents in partitions that depend on their ids alone: a second scoring has the same batches and the same digest."""
    return documents.repartition(num_partitions, "doc_id").sortWithinPartitions("doc_id")


def of_split(documents: DataFrame, split: str) -> DataFrame:
    """Kept and dropped documents of a split, or of all of them for "all"."""
    return documents if split == "all" else documents.where(F.col("split") == split)


def unscored(documents: DataFrame, predictions: DataFrame, model: "ResolvedModel") -> DataFrame:
    """The documents that this model version has not scored yet with their present text and label."""
    scored = by_model(predictions, model).select("doc_id", "text", "label").alias("scored")
    same = [
        F.col(f"documents.{name}").eqNullSafe(F.col(f"scored.{name}")) for name in ("doc_id", "text", "label")
    ]
    return documents.alias("documents").join(scored, reduce(Column.__and__, same), "left_anti")


def by_model(predictions: DataFrame, model: "ResolvedModel") -> DataFrame:
    """The predictions of a model version; its run too, since the numbers of a registry that was lost begin again."""
    named = predictions.where((F.col("model_name") == model.name) & (F.col("model_version") == model.version))
    return named.where(F.col("run_id") == model.run_id)


METRICS: dict[str, Callable[[DataFrame], float]] = {"accuracy": accuracy, "bits_per_byte": bits_per_byte}


def confusion(predictions: DataFrame) -> DataFrame:
    """(label, prediction, num_documents) of labelled documents; at most classes x classes rows."""
    return (
        predictions.where("label IS NOT NULL")
        .groupBy("label", "prediction")
        .agg(F.count("*").alias("num_documents"))
        .orderBy(F.desc("num_documents"), "label", "prediction")
    )


def evaluate(predictions: DataFrame, *, model_version: int, metric: str) -> Measurement:
    """What the gate compares: the metric and a digest of the documents measured on (id, text and label; not the predictions)."""
    counted = predictions.where("label IS NOT NULL") if metric == "accuracy" else predictions
    # Each column is hashed on its own, so that a null cannot move into the neighbour.
    row_hash = F.xxhash64(*[F.xxhash64(name) for name in ("doc_id", "label", "text")])
    totals = counted.agg(
        F.count("*").alias("num"),
        F.bit_xor(row_hash).alias("xor"),
        F.sum(row_hash.cast("decimal(38,0)")).alias("sum"),
    ).collect()[0]
    return Measurement(
        model_version=model_version,
        metric=metric,
        value=METRICS[metric](predictions),
        num_rows=totals["num"],
        rows_digest=fingerprint(totals["num"], totals["xor"], str(totals["sum"])),
    )


def needs_shipping(context: SparkContext) -> bool:
    """Workers of local[N] see the driver's files; those of any cluster, local-cluster included, get a copy."""
    master = str(context.master)
    return not master.startswith("local") or master.startswith("local-cluster")


def ship(context: SparkContext, model_folder: Path) -> str:
    """Send the folder to every executor, now and later; the name by which a worker finds it.

    As an archive: addFile refuses local folders on a cluster. The name carries the content, since Spark keys files by name and
    would go on using the first model under an equal one.
    """
    name = f"model-{folder_digest(model_folder)}"
    if (context.applicationId, name) in _SHIPPED:  # Spark refuses an equal name from another path
        return name
    folder = tempfile.mkdtemp(prefix="distributary-")
    # Executors that come later fetch it too, so it lives as long as this driver.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    archive = Path(folder) / f"{name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(path for path in Path(model_folder).rglob("*") if path.is_file()):
            packed.write(file, file.relative_to(model_folder).as_posix())
    context.addArchive(f"{archive}#{name}")
    _SHIPPED.add((context.applicationId, name))
    return name


_SHIPPED: set[tuple[str | None, str]] = set()
"""(application, archive) that the executors can fetch."""


def _scorer(
    place: str, batch_size: int, num_threads: int, continues: bool
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, SLICE_ROWS):
                yield _score_slice(
                    batch.slice(start, SLICE_ROWS), _predictor(place, num_threads), batch_size, continues
                )

    return score


def _score_slice(
    rows: pa.RecordBatch, predictor: Predictor, batch_size: int, continues: bool
) -> pa.RecordBatch:
    before = predictor.model_seconds
    predictions = predictor.predict(
        rows.column("text").to_pylist(), batch_size=batch_size, continues=continues
    )
    milliseconds = (predictor.model_seconds - before) * 1000 / max(1, rows.num_rows)
    columns = [
        *(rows.column(name) for name in ("doc_id", "text", "label")),
        [p.prediction for p in predictions],
        [p.score for p in predictions],
        [milliseconds] * rows.num_rows,
    ]
    return pa.RecordBatch.from_arrays(
        [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, SCORED_ARROW, strict=True)
        ],
        schema=SCORED_ARROW,
    )


@lru_cache(maxsize=1)
def _predictor(place: str, num_threads: int) -> Predictor:
    """One a Python worker, which serves many tasks; the newest model takes the place of the one before."""
    folder = Path(place) if Path(place).is_absolute() else Path(SparkFiles.get(place))
    return Predictor.load(folder, num_threads=num_threads)
