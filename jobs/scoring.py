"""Stage 5: documents to the predictions table, by the model version that an alias names now; documents scored before are not scored again."""

from datetime import UTC, datetime
from typing import Literal

import typer

from jobs.config import Section
from jobs.plan import planned, required, unchanged
from jobs.stage import Outcome, Plan, command, working
from pipelines.delta import fingerprint, pin
from pipelines.registry import models
from pipelines.registry.store import connect
from pipelines.scoring.batch import dealt, of_split, score_documents, unscored
from pipelines.spark import session
from pipelines.storage import absolute
from pipelines.tables import DOCUMENTS, PREDICTIONS


class Config(Section):
    name: str
    alias: str
    documents: str
    split: Literal["train", "validation", "test", "all"]
    predictions: str
    batch_size: int
    num_partitions: int


def plan(config: Config) -> Plan:
    connect(config.tracking.uri, config.tracking.artifacts)
    documents, model = required(absolute(config.documents), "documents", "corpus"), models.resolve(config.name, config.alias)
    made_from = fingerprint("scoring", model.name, model.version, model.run_id, documents.identity(), config.split)
    return planned(made_from, [absolute(config.predictions)], appended=True)


def main(config: Config) -> Outcome:
    todo = plan(config)
    if todo.up_to_date:
        return unchanged("scoring", todo, absolute(config.predictions), dict)
    pinned, model = required(absolute(config.documents), "documents", "corpus"), models.resolve(config.name, config.alias)
    with working("scoring") as work:
        work.say("starting Spark")
        spark = session("distributary scoring", config.spark)
        chosen = of_split(DOCUMENTS.read(spark, pinned.path, pinned.version), config.split)
        if pin(absolute(config.predictions)) is not None:
            chosen = unscored(chosen, PREDICTIONS.read(spark, absolute(config.predictions)), model)
        work.say(f"scoring with {model.name} version {model.version}")
        scored = score_documents(dealt(chosen, num_partitions=config.num_partitions), model.folder, model, batch_size=config.batch_size,
                                 documents_version=pinned.version, scored_at=datetime.now(UTC))
        facts = {"model": f"{model.name} {model.version}", "run": model.run_id}
        written = PREDICTIONS.append(scored, absolute(config.predictions), fingerprint=todo.fingerprint, facts=facts)
    return Outcome(stage="scoring", ran=True, why=todo.why, facts={**facts, "new predictions": f"{written.num_rows:,}"})


if __name__ == "__main__":
    typer.run(command("scoring", Config, main, plan))
