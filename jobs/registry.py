"""Stage 4: the current run becomes a model version, and champion if it is better on the same rows."""

from typing import Annotated, Literal

import typer
from pydantic import Field

from jobs.shell.command import Outcome, Plan, command, working
from jobs.shell.plan import required
from jobs.shell.settings import Section
from pipelines.dataset.documents import select_kept
from pipelines.pin import Pin, fingerprint
from pipelines.registry.gate.apply import apply_verdict
from pipelines.registry.lookup import Lookup
from pipelines.registry.runs.current import CurrentRun, require_current
from pipelines.registry.store import connect
from pipelines.registry.versions.aliases import find_champion
from pipelines.registry.versions.register import register_model
from pipelines.scoring.compare import SERVE_SCRIPT, compare, example_texts
from pipelines.spark import session
from pipelines.storage import Folder, absolute
from pipelines.tables import DOCUMENTS

REVISION = 2
"""Raised when equal inputs give another verdict than before."""


class Config(Section):
    name: str
    trainings: str
    documents: str
    split: Literal["train", "validation", "test"]
    min_gain: Annotated[float, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)]


def inputs(config: Config) -> tuple[Plan, CurrentRun, Pin]:
    """The plan, and the run and the documents it was made for: later changes do not affect this stage."""
    lookup = Lookup(config.tracking.uri, config.tracking.artifacts)
    run = require_current(config.trainings, lookup.read_run_status)
    documents = required(absolute(config.documents), "documents", "corpus")
    made_from = fingerprint(
        "registry", REVISION, run.run_id, config.name, config.split, config.min_gain, documents.identity()
    )
    done = lookup.find_verdict(config.name, run.run_id, made_from=made_from)
    why = (
        f"{config.name} version {done.model_version}: {done.reason}"
        if done
        else f"run {run.run_id} was not compared on these rows yet"
    )
    return Plan(fingerprint=made_from, up_to_date=done is not None, why=why), run, documents


def plan(config: Config) -> Plan:
    return inputs(config)[0]


def main(config: Config) -> Outcome:
    planned, run, documents = inputs(config)
    if planned.up_to_date:
        return Outcome(stage="registry", ran=False, why=planned.why)
    connect(config.tracking.uri, config.tracking.artifacts)
    with working("registry") as work:
        work.say("starting Spark")
        spark = session("distributary registry", config.spark)
        work.say(f"registering the model of run {run.run_id}")
        held_out = select_kept(DOCUMENTS.read(spark, documents.path, documents.version), config.split)
        with Folder(run.folder).local("model") as folder:
            version = register_model(
                run.run_id, folder, config.name, code=SERVE_SCRIPT, input_example=example_texts(held_out)
            )
        verdict = compare(
            held_out,
            config.name,
            version,
            min_gain=config.min_gain,
            batch_size=config.batch_size,
            say=work.say,
        )
        reason = apply_verdict(verdict, run.run_id, config.name, made_from=planned.fingerprint).reason
    state = "champion" if find_champion(config.name) == version else "challenger"
    facts = {"model version": f"{config.name} {version} ({state})", "gate": reason}
    return Outcome(stage="registry", ran=True, why=planned.why, facts=facts)


if __name__ == "__main__":
    typer.run(command("registry", Config, main, plan))
