"""Score a whole table of documents on the cluster: each Python worker loads the model once, and rows stream
through it.

Memory of a worker: the model, one Arrow batch of documents and `SLICE_ROWS` texts. Executors need torch,
tokenizers and transformers, but no MLflow: `place.py` finds out where they get the model. The driver loads no
torch.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from pipelines.dataset.examples.example import Document, Part
from pipelines.finetune.launch.devices import show_only
from pipelines.scoring.pull import Place, open_place
from pipelines.stores import carry
from pipelines.tables import PREDICTIONS
from pipelines.torch_workers import torch_workers

if TYPE_CHECKING:
    from pipelines.scoring.predict import Precision
    from pipelines.scoring.select import ModelVersion

SLICE_ROWS = 512
"""Texts held as Python strings at once: enough to sort by length, little to hold."""
GIVEN = ("doc_id", "text", "content_hash", "label")
"""What the workers read and return as it is."""
OF_SOME_TASKS = ("embedding", "labels", "reciprocal_rank")
SCORED = (*GIVEN, "prediction", "score", "num_bytes", "problem", *OF_SOME_TASKS, "latency_ms", "adapter")
"""Columns of PREDICTIONS that the workers return; the rest is constant."""


def score_documents(
    documents: DataFrame,
    place: Place,
    model: "ModelVersion",
    *,
    documents_version: int,
    scored_at: datetime,
    batch_size: int = 32,
    num_threads: int = 1,
    precision: "Precision" = "auto",
    generate: bool = True,
) -> DataFrame:
    """One prediction per document, as PREDICTIONS. Rows in = rows out, empty texts included. Lazy.

    `generate=False`: a language model writes no continuations, which take most of its time; its predictions
    are empty. `scored_at` is one time for the whole call. `num_threads` is torch's in each Python worker:
    give it spark.task.cpus.

    The documents of a bundle need the column `adapter`, see `adapters.name_adapters`.

    A task uses the GPU that Spark gave it, else one that torch sees on its host, else the CPU; see
    `Predictor` for `precision`.

    The same rows in the same partitions give the same prediction and score, to the last digit, on the same
    machine. Another partitioning changes the texts that share a batch, and so a score by float noise (below
    1e-5), and a class only where two classes tie within that noise.
    """
    load = partial(_load_predictor, place, num_threads, precision)
    with torch_workers(documents.sparkSession):
        schema = StructType([PREDICTIONS.schema[name] for name in SCORED])
        score = _make_scorer(load, batch_size, generate)
        columns = (*GIVEN, "parts") if place.reads_parts else GIVEN
        columns = (*columns, "adapter") if place.adapters else columns
        scored = documents.select(*columns).mapInArrow(carry(score), schema)
    constants = {
        "model_name": F.lit(model.name),
        "model_version": F.lit(model.version),
        "run_id": F.lit(model.run_id),
        "documents_version": F.lit(documents_version).cast("bigint"),
        "scored_at": F.lit(scored_at).cast("timestamp"),
    }
    return scored.withColumns(constants).select(*PREDICTIONS.schema.names)


def _make_scorer(
    load: Callable[[], Any], batch_size: int, generate: bool
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    columns = PREDICTIONS.arrow_schema  # on the driver: the JVM parses DDL, and a worker has none
    schema = pa.schema([columns.field(name) for name in SCORED])

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, SLICE_ROWS):
                yield _score_slice(batch.slice(start, SLICE_ROWS), load(), batch_size, generate, schema)

    return score


def _score_slice(
    rows: pa.RecordBatch, predictor: Any, batch_size: int, generate: bool, schema: pa.Schema
) -> pa.RecordBatch:
    """`predictor`: a Predictor, or a BundlePredictor, whose rows name their adapter."""
    before = predictor.model_seconds
    wanted = [rows.column("adapter").to_pylist()] if "adapter" in rows.schema.names else []
    documents = _read_documents(rows)
    predictions = predictor.predict(documents, *wanted, batch_size=batch_size, generate=generate)
    milliseconds = (predictor.model_seconds - before) * 1000 / max(1, rows.num_rows)
    columns = [
        *(rows.column(name) for name in GIVEN),
        pa.array([each.prediction for each in predictions], pa.string()),
        pa.array([each.score for each in predictions], pa.float64()),
        pa.array([each.num_bytes for each in predictions], pa.int64()),
        pa.array([each.problem for each in predictions], pa.string()),
        pa.array([each.embedding for each in predictions], schema.field("embedding").type),
        pa.array([_to_structs(each.labels) for each in predictions], schema.field("labels").type),
        pa.array([each.reciprocal_rank for each in predictions], pa.float64()),
        pa.array([milliseconds] * rows.num_rows, pa.float64()),
        rows.column("adapter") if wanted else pa.nulls(rows.num_rows, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _to_structs(labels: list[tuple[str, float]] | None) -> list[dict[str, Any]] | None:
    if labels is None:
        return None
    return [{"label": label, "probability": probability} for label, probability in labels]


def _read_documents(rows: pa.RecordBatch) -> list[str | Document]:
    texts: list[str] = rows.column("text").to_pylist()
    if "parts" not in rows.schema.names:
        return list(texts)
    ids, parts = rows.column("doc_id").to_pylist(), rows.column("parts").to_pylist()
    return [
        Document(doc_id, text, parts=None if turns is None else tuple(Part(**turn) for turn in turns))
        for doc_id, text, turns in zip(ids, texts, parts, strict=True)
    ]


@lru_cache(maxsize=1)
def _load_predictor(place: Place, num_threads: int, precision: "Precision") -> Any:
    """One per Python worker, which runs many tasks and keeps its GPU; a new model replaces the one before."""
    from pipelines.scoring.bundle import BundlePredictor  # torch: in the workers only
    from pipelines.scoring.predict import Predictor, choose_device

    task = TaskContext.get()
    assert task is not None, "only a task loads a model"
    gpus = task.resources().get("gpu")
    with show_only(gpus.addresses[0] if gpus else None), open_place(place) as folder:
        device = choose_device(0 if gpus else task.partitionId())
        kind: Any = BundlePredictor if place.adapters else Predictor
        return kind.load(folder, num_threads=num_threads, device=device, precision=precision)
