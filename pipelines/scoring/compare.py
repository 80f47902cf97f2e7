"""A new version against the champion, measured on the same documents; the gate decides."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.finetune.models.architecture import read_spec
from pipelines.registry.gate.decide import Measurement, Verdict, decide
from pipelines.registry.versions.aliases import find_rival
from pipelines.registry.versions.resolve import LocatedModel, locate_model
from pipelines.scoring.batch import score_documents
from pipelines.scoring.evaluate import evaluate_predictions
from pipelines.scoring.place import place_model
from pipelines.scoring.select import deal
from pipelines.spark import persisted

NUM_EXAMPLES, EXAMPLE_CHARS, EXAMPLE_TURNS = 2, 200, 2
SERVE_SCRIPT = Path(__file__).with_name("serve.py")
"""What MLflow runs to serve a model; it reads the model folder."""


def example_inputs(documents: DataFrame, model_folder: Path) -> list[Any]:
    """Beginnings of the first documents by doc_id, the input example of a model version: texts, or for a
    model of conversations the first turns as {role, content}.

    Raises ValueError if there are no documents.
    """
    beginning = F.substring("text", 1, EXAMPLE_CHARS)
    if read_spec(model_folder).chat is not None:
        user = F.array(F.struct(F.lit("user").alias("name"), F.col("text")))
        turns = F.slice(F.coalesce("parts", user), 1, EXAMPLE_TURNS)
        beginning = F.transform(
            turns,
            lambda turn: F.struct(
                turn["name"].alias("role"), F.substring(turn["text"], 1, EXAMPLE_CHARS).alias("content")
            ),
        )
    beginnings = documents.orderBy("doc_id").select(beginning.alias("example")).limit(NUM_EXAMPLES)
    examples = [row.asDict(recursive=True)["example"] for row in beginnings.collect()]
    if not examples:
        raise ValueError(
            "there are no kept documents to measure a model on; set registry.split to a split that has some"
        )
    return examples


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
    with persisted(deal(documents)) as held_out:
        for each in versions:
            say(f"measuring version {each}")
            measured[each] = measure_version(held_out, locate_model(name, each), batch_size=batch_size)
    champion = None if rival is None else measured[rival]
    return decide(measured[version], champion, min_gain=min_gain)


def measure_version(documents: DataFrame, model: LocatedModel, *, batch_size: int) -> Measurement:
    """The model's own metric over all documents, which are dealt to tasks already (`select.deal`). Raises
    ValueError for a bundle, which has none."""
    place = place_model(documents.sparkSession, model)
    if place.adapters:
        raise ValueError(
            f"version {model.version} of {model.name} is a bundle, which has no metric, so no version can be "
            "compared with it; give the alias champion to a version that was trained, and register bundles "
            "under a name of their own"
        )
    scored = score_documents(
        documents,
        place,
        model,
        documents_version=0,
        scored_at=datetime.now(UTC),
        batch_size=batch_size,
        generate=False,
    )
    with persisted(scored):
        return evaluate_predictions(scored, model_version=model.version, task=place.task, metric=place.metric)
