"""A new version against the champion, measured on the same documents; the gate decides."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.finetune.models.architecture import read_metric
from pipelines.registry.gate.decide import Measurement, Verdict, decide
from pipelines.registry.versions.aliases import find_rival
from pipelines.registry.versions.resolve import ResolvedModel, resolve_model
from pipelines.scoring.batch import partition_by_id, score_documents
from pipelines.scoring.evaluate import evaluate_predictions
from pipelines.spark import count_slots, persisted

NUM_EXAMPLES, EXAMPLE_CHARS = 2, 200
SERVE_SCRIPT = Path(__file__).with_name("serve.py")
"""What MLflow runs to serve a model; it reads the model folder."""


def example_texts(documents: DataFrame) -> list[str]:
    """Beginnings of the first documents by doc_id: the input example of a model version.

    Raises ValueError if there are no documents.
    """
    beginnings = (
        documents.orderBy("doc_id")
        .select(F.substring("text", 1, EXAMPLE_CHARS).alias("text"))
        .limit(NUM_EXAMPLES)
    )
    texts = [row["text"] for row in beginnings.collect()]
    if not texts:
        raise ValueError(
            "there are no kept documents to measure a model on; set registry.split to a split that has some"
        )
    return texts


def compare(
    documents: DataFrame,
    name: str,
    version: int,
    *,
    min_gain: float,
    batch_size: int,
    say: Callable[[str], None],
) -> Verdict:
    """Measure the challenger, and the champion if there is another one. Returns the gate's verdict."""
    # A champion that is measured again, after a kill or on other rows, is compared with the one it replaced.
    rival = find_rival(name, version)
    versions = [version] if rival is None else [version, rival]
    measured = {}
    with persisted(documents) as held_out:
        for each in versions:
            say(f"measuring version {each}")
            measured[each] = measure_version(held_out, resolve_model(name, each), batch_size=batch_size)
    champion = None if rival is None else measured[rival]
    return decide(measured[version], champion, min_gain=min_gain)


def measure_version(documents: DataFrame, model: ResolvedModel, *, batch_size: int) -> Measurement:
    """The model's own metric over all documents."""
    num_tasks = count_slots(documents.sparkSession)
    scored = score_documents(
        partition_by_id(documents, num_partitions=num_tasks),
        model.folder,
        model,
        documents_version=0,
        scored_at=datetime.now(UTC),
        batch_size=batch_size,
        generate=False,
    )
    with persisted(scored):
        return evaluate_predictions(scored, model_version=model.version, metric=read_metric(model.folder))
