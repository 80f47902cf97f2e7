"""Stage 4: the newest finished run to a model version, which becomes champion if it beats the present one on the same rows."""

import typer

from jobs.config import Section
from jobs.plan import required
from jobs.stage import Outcome, Plan, command, working
from pipelines.dataset.build import kept
from pipelines.delta import Pin, fingerprint
from pipelines.registry import models, verdicts
from pipelines.registry.runs import FinishedRun, newest_finished
from pipelines.registry.store import connect
from pipelines.scoring.judge import SERVE_SCRIPT, compare, example_texts
from pipelines.spark import session
from pipelines.storage import Folder, absolute
from pipelines.tables import DOCUMENTS

REVISION = 1
"""Raised when equal inputs give another verdict than before."""


class Config(Section):
    name: str
    documents: str
    split: str
    min_gain: float


def inputs(config: Config) -> tuple[FinishedRun, Pin]:
    """The run and the documents of now; what is written meanwhile changes nothing."""
    connect(config.tracking.uri, config.tracking.artifacts)
    return newest_finished(config.tracking.experiment), required(absolute(config.documents), "documents", "corpus")


def plan(config: Config) -> Plan:
    return plan_for(config, *inputs(config))


def plan_for(config: Config, run: FinishedRun, documents: Pin) -> Plan:
    made_from = fingerprint("registry", REVISION, run.run_id, config.name, config.split, config.min_gain, documents.identity())
    done = verdicts.judged(config.name, made_from=made_from)
    if done is None:
        return Plan(fingerprint=made_from, up_to_date=False, why=f"run {run.run_id} was not judged on these rows yet")
    return Plan(fingerprint=made_from, up_to_date=True, why=f"{config.name} version {done[0]}: {done[1]}")


def main(config: Config) -> Outcome:
    run, documents = inputs(config)
    planned = plan_for(config, run, documents)
    if planned.up_to_date:
        return Outcome(stage="registry", ran=False, why=planned.why)
    with working("registry") as work:
        work.say("starting Spark")
        spark = session("distributary registry", config.spark)
        work.say(f"registering the model of run {run.run_id}")
        held_out = kept(DOCUMENTS.read(spark, documents.path, documents.version), config.split)
        with Folder(run.folder).local("model") as folder:
            version = models.register(run.run_id, folder, config.name, code=SERVE_SCRIPT, input_example=example_texts(held_out))
        verdict = compare(held_out, config.name, version, min_gain=config.min_gain, say=work.say)
        verdicts.write_verdict(run.run_id, verdict)
        if verdict.promote:
            models.promote(config.name, version)
        verdicts.mark_judged(config.name, version, made_from=planned.fingerprint, reason=verdict.reason)
    state = "champion" if models.champion_of(config.name) == version else "challenger"
    facts = {"model version": f"{config.name} {version} ({state})", "gate": verdict.reason}
    return Outcome(stage="registry", ran=True, why=planned.why, facts=facts)


if __name__ == "__main__":
    typer.run(command("registry", Config, main, plan))
