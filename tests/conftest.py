"""One SparkSession and one small flow for all tests: starting them takes longer than most tests."""

import csv
import os
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest

from tests.processes import SHORT_JVM

os.environ.setdefault("SPARK_SUBMIT_OPTS", SHORT_JVM)
os.environ["HF_HUB_OFFLINE"] = "1"
# Two lanes of tests share two cores, where pools of threads wait for each other. Ranks set their own number.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
# Arrow sizes its pool by OMP_NUM_THREADS too, and its readers want a second thread.
pyarrow.set_cpu_count(2)

TEST_CONF = {
    "spark.master": "local[2,4]",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "2g",
}
INTENTS = ("card_arrival", "exchange_rate", "lost_or_stolen_card", "pending_cash_withdrawal")
BANKING77 = Path(__file__).parent.parent / "data" / "banking77"
TINY_ENCODER = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


@pytest.fixture(scope="session")
def spark():
    from pipelines.spark import session

    started = session("tests", TEST_CONF)
    yield started
    started.stop()


def write_tickets(folder: Path) -> None:
    """Four intents of Banking77. In train also a broken record, a Chinese row and a copy of a test row."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        with (BANKING77 / f"{name}.csv").open(newline="", encoding="utf-8") as source:
            rows = [row for row in csv.reader(source) if row[1] in INTENTS]
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as target:
            writer = csv.writer(target)
            writer.writerow(["text", "category"])
            writer.writerows(rows)
            if name == "train":
                writer.writerow(["我的卡还没有到,请问什么时候能收到?", "card_arrival"])
                writer.writerow(["one field too many", "card_arrival", "surplus"])
                writer.writerow(
                    ["Is my stolen card blocked already, for this test only?", "lost_or_stolen_card"]
                )
            else:
                writer.writerow(
                    ["Is my stolen card blocked already, for this test only?", "lost_or_stolen_card"]
                )


def count_jobs(spark):
    """Jobs that the session has started. Its status store forgets the first ones of more than 1,000."""
    return spark.sparkContext._jsc.sc().dagScheduler().nextJobId()


def flow_overrides(folder: Path) -> list[str]:
    """A small flow in `folder`: the real stages on the files of write_tickets, with a tiny encoder."""

    def source(name: str, splits: str) -> str:
        fields = "{text: text, label: category}"
        path = f"{folder}/raw/{name}.csv"
        return f"{{name: {name}, path: {path}, format: csv, fields: {fields}, splits: {splits}}}"

    train, test = source("train", "{train: 0.9, validation: 0.1}"), source("test", "{test: 1.0}")
    model = "{" + ", ".join(f"{key}: {value}" for key, value in TINY_ENCODER.items()) + "}"
    return [
        "recipe=tickets",
        f"root={folder}/lake",
        f"tracking.uri=sqlite:///{folder}/mlflow.db",
        f"tracking.artifacts={folder}/artifacts",
        f"corpus.sources=[{train}, {test}]",
        "dataset.tokenizer.vocab_size=400",
        "dataset.packing.sequence_length=48",
        f"finetune.model.config={model}",
        "finetune.optimization.learning_rate=0.003",
        "finetune.num_epochs=2.0",
        "finetune.global_batch=16",
        "finetune.log_every_steps=1",
        "finetune.evaluate_every_steps=30",
        "finetune.checkpoint_every_steps=10",
        "finetune.window_batches=5",
        "spark={" + ", ".join(f'{key}: "{value}"' for key, value in TEST_CONF.items()) + "}",
    ]


@pytest.fixture(scope="session")
def flow(spark, tmp_path_factory):
    """The five stages run once, undisturbed: settings, their configs and outcomes, by stage name."""
    from jobs.run import STAGES
    from jobs.shell import settings as configuration

    folder = tmp_path_factory.mktemp("flow")
    write_tickets(folder / "raw")
    # Retrieval, which other flows learn, has no losses of sequences.
    watched = [
        "finetune.sequence_losses=true",
        "finetune.timeline=true",
        "finetune.system_metrics=true",
        "finetune.compare_replicas_every_steps=10",
    ]
    settings = configuration.load(overrides=[*flow_overrides(folder), *watched])
    configs = {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}
    outcomes = {name: stage.main(configs[name]) for name, stage in STAGES.items()}
    return SimpleNamespace(
        folder=folder, settings=settings, configs=configs, outcomes=outcomes, stages=STAGES
    )
