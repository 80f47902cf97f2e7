"""Stage 5: documents to the predictions table, by the model version that an alias names now; those scored before are skipped."""

from datetime import UTC, datetime
from typing import Literal

import typer

from jobs.config import Section
from jobs.plan import planned, required, unchanged
from jobs.stage import Outcome, Plan, command, working
from pipelines.delta import Pin, fingerprint, pin
from pipelines.registry import models, verdicts
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


def inputs(config: Config) -> tuple[Pin, models.ResolvedModel]:
    """The documents and the model version of now; an alias that moves later changes nothing."""
    connect(config.tracking.uri, config.tracking.artifacts)
    return required(absolute(config.documents), "documents", "corpus"), models.resolve(config.name, config.alias)


def plan(config: Config) -> Plan:
    return plan_for(config, *inputs(config))


def plan_for(config: Config, pinned: Pin, model: models.ResolvedModel) -> Plan:
    made_from = fingerprint("scoring", model.name, model.version, model.run_id, pinned.identity(), config.split,
                            verdicts.newest_judgement(config.name))
    return planned(made_from, [absolute(config.predictions)], appended=True)


def main(config: Config) -> Outcome:
    pinned, model = inputs(config)
    todo = plan_for(config, pinned, model)
    if todo.up_to_date:
        return unchanged("scoring", todo, absolute(config.predictions), told)
    with working("scoring") as work:
        work.say("starting Spark")
        spark = session("distributary scoring", config.spark)
        chosen = of_split(DOCUMENTS.read(spark, pinned.path, pinned.version), config.split)
        if pin(absolute(config.predictions)) is not None:
            chosen = unscored(chosen, PREDICTIONS.read(spark, absolute(config.predictions)), model)
        work.say(f"scoring with {model.name} version {model.version}")
        scored = score_documents(dealt(chosen, num_partitions=config.num_partitions), model.folder, model,
                                 batch_size=config.batch_size, documents_version=pinned.version, scored_at=datetime.now(UTC))
        facts = {"model": f"{model.name} {model.version}", "run": model.run_id}
        written = PREDICTIONS.append(scored, absolute(config.predictions), fingerprint=todo.fingerprint, facts=facts)
    return Outcome(stage="scoring", ran=True, why=todo.why, facts=told(written))


def told(pin: Pin) -> dict[str, str]:
    """What was scored, for a person."""
    return {**pin.facts, "predictions added": f"{pin.num_rows:,}"}


if __name__ == "__main__":
    typer.run(command("scoring", Config, main, plan))
