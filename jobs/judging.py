"""Between the registry job and the gate: register a run's model, measure versions on the same held-out rows."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.stage import Working
from pipelines.dataset.build import kept
from pipelines.finetune.model import read_spec
from pipelines.registry import gate, models
from pipelines.registry.runs import FinishedRun
from pipelines.scoring import predict
from pipelines.scoring.batch import dealt, evaluate, score_documents
from pipelines.storage import Folder, absolute
from pipelines.tables import DOCUMENTS

if TYPE_CHECKING:
    from jobs.registry import Config

NUM_EXAMPLES, EXAMPLE_CHARS = 2, 200
SERVE_SCRIPT = Path(predict.__file__).with_name("serve.py")
"""What MLflow runs to serve a model; it reads the model folder."""


def register_model(spark: SparkSession, config: "Config", run: FinishedRun) -> int:
    """The version that holds the run's model."""
    examples = held_out(spark, config).orderBy("doc_id").select(F.substring("text", 1, EXAMPLE_CHARS).alias("text")).limit(NUM_EXAMPLES)
    texts = [row["text"] for row in examples.collect()]
    if not texts:
        raise ValueError(f"split {config.split} of {config.documents} has no kept documents to judge a model on; set registry.split")
    with Folder(run.folder).local("model") as folder:
        return models.register(run.run_id, folder, config.name, code=SERVE_SCRIPT, input_example=texts)


def compare(spark: SparkSession, config: "Config", version: int, work: Working) -> gate.Verdict:
    """Measure the challenger, and the champion if there is another one, on the same rows; the gate's verdict."""
    documents = held_out(spark, config).persist()
    champion = models.champion_of(config.name)
    measured = {}
    for each in {version, champion} - {None}:
        work.say(f"measuring version {each} on split {config.split}")
        measured[each] = measure(documents, models.resolve(config.name, each))
    documents.unpersist()
    # Killed after the promotion, the champion is this version: it is judged as it was, without a rival.
    rival = None if champion in (None, version) else measured[champion]
    return gate.decide(measured[version], rival, min_gain=config.min_gain)


def measure(documents: DataFrame, model: models.ResolvedModel) -> gate.Evaluation:
    scored = score_documents(dealt(documents, num_partitions=documents.sparkSession.sparkContext.defaultParallelism), model.folder, model,
                             documents_version=0, scored_at=datetime.now(UTC)).persist()
    evaluation = evaluate(scored, model_version=model.version, metric=read_spec(model.folder).metric)
    scored.unpersist()
    return evaluation


def held_out(spark: SparkSession, config: "Config") -> DataFrame:
    return kept(DOCUMENTS.read(spark, absolute(config.documents))).where(F.col("split") == config.split)
