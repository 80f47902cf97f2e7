"""Stage 5: documents to the predictions table, by the model version that an alias names now.

Documents that this version has scored before are skipped.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal

import typer
from pydantic import Field

from jobs.shell.command import Outcome, Plan, command, working
from jobs.shell.plan import planned, required, unchanged
from jobs.shell.settings import Section
from pipelines.pin import Pin, fingerprint, pin
from pipelines.registry.gate.apply import read_last_verdict
from pipelines.registry.store import connect
from pipelines.registry.versions.resolve import ResolvedModel, resolve_model
from pipelines.scoring.batch import (
    partition_by_id,
    score_documents,
    select_model,
    select_split,
    select_unscored,
)
from pipelines.spark import session
from pipelines.storage import absolute
from pipelines.tables import DOCUMENTS, PREDICTIONS

REVISION = 3
"""Raised when equal documents and models give other predictions than before."""


class Config(Section):
    name: str
    alias: str | int
    documents: str
    split: Literal["train", "validation", "test", "all"]
    predictions: str
    batch_size: Annotated[int, Field(ge=1)]
    num_partitions: Annotated[int, Field(ge=1)]


def inputs(config: Config) -> tuple[Pin, ResolvedModel]:
    """The documents and the model version of now; an alias that moves later changes nothing."""
    connect(config.tracking.uri, config.tracking.artifacts)
    return required(absolute(config.documents), "documents", "corpus"), resolve_model(
        config.name, config.alias
    )


def plan(config: Config) -> Plan:
    return plan_for(config, *inputs(config))


def plan_for(config: Config, pinned: Pin, model: ResolvedModel) -> Plan:
    made_from = fingerprint(
        "scoring",
        REVISION,
        model.name,
        model.version,
        model.run_id,
        pinned.identity(),
        config.split,
        read_last_verdict(config.name),
    )
    return planned(made_from, [absolute(config.predictions)], appended=True)


def main(config: Config) -> Outcome:
    pinned, model = inputs(config)
    todo = plan_for(config, pinned, model)
    if todo.up_to_date:
        return unchanged("scoring", todo, absolute(config.predictions), display_facts)
    with working("scoring") as work:
        work.say("starting Spark")
        spark = session("distributary scoring", config.spark)
        chosen = select_split(DOCUMENTS.read(spark, pinned.path, pinned.version), config.split)
        num_before = 0
        if pin(absolute(config.predictions)) is not None:
            predictions = PREDICTIONS.read(spark, absolute(config.predictions))
            num_before = select_model(predictions, model).count()
            chosen = select_unscored(chosen, predictions, model)
        work.say(f"scoring with {model.name} version {model.version}")
        scored = score_documents(
            partition_by_id(chosen, num_partitions=config.num_partitions),
            model.folder,
            model,
            batch_size=config.batch_size,
            documents_version=pinned.version,
            scored_at=datetime.now(UTC),
        )
        facts = {"model": f"{model.name} {model.version}", "run": model.run_id, "before": num_before}
        written = PREDICTIONS.append(
            scored, absolute(config.predictions), fingerprint=todo.fingerprint, facts=facts
        )
    return Outcome(stage="scoring", ran=True, why=todo.why, facts=display_facts(written))


def display_facts(pin: Pin) -> dict[str, str]:
    """What was scored, for the terminal."""
    facts = pin.facts
    return {
        "model": facts["model"],
        "run": facts["run"],
        "predictions added": f"{pin.num_rows:,}",
        "predictions of this version": f"{facts['before'] + pin.num_rows:,}",
    }


if __name__ == "__main__":
    typer.run(command("scoring", Config, main, plan))
