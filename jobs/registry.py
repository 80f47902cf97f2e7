"""Stage 4: a run to a model version, champion if better.
Reads the last finished run and held-out documents, which decide between the new model and the champion.
Writes a model version, verdict.json of the run, and the alias `champion` (`distributary undo` reverts it).
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from jobs.shell.command import run_command
from jobs.shell.plan import Outcome, Plan, require_table
from jobs.shell.settings import AbsolutePath, Positive, Section, Split, TablePlace
from jobs.shell.stage import Check, Work, check_nothing, run_stage

if TYPE_CHECKING:
    from pipelines.pin import Pin
    from pipelines.registry.runs.current import CurrentRun

REVISION = 3  # raise it when equal inputs give another verdict than before


class Config(Section):
    name: str
    trainings: AbsolutePath
    documents: TablePlace
    split: Split
    min_gain: Annotated[float, Field(ge=0)]
    decontaminated_from: tuple[str, ...]
    batch_size: Positive


def plan(config: Config) -> "Plan[tuple[CurrentRun, Pin]]":
    from pipelines.pin import fingerprint
    from pipelines.registry.lookup import Lookup
    from pipelines.registry.runs.current import require_current

    lookup = Lookup(config.tracking.uri, config.tracking.artifacts)
    run = require_current(config.trainings, lookup.read_run_status)
    documents = require_table(config.documents, "documents", "corpus")
    settings = (run.run_id, config.name, config.split, config.min_gain, *config.decontaminated_from)
    made_from = fingerprint("registry", REVISION, *settings, documents.identity())
    done = lookup.find_verdict(config.name, run.run_id, made_from=made_from)
    why = f"run {run.run_id} was not compared on these rows yet"
    if done is not None:
        why = f"{config.name} version {done.model_version}: {done.reason}"
    return Plan(fingerprint=made_from, up_to_date=done is not None, why=why, inputs=(run, documents))


def main(config: Config, check: Check = check_nothing) -> Outcome:
    return run_stage("registry", config, plan, judge_model, check)


def judge_model(config: Config, work: "Work[tuple[CurrentRun, Pin]]") -> dict[str, str]:
    from pipelines.dataset.documents import select_kept
    from pipelines.registry.gate.apply import apply_verdict
    from pipelines.registry.gate.decontamination import require_decontaminated
    from pipelines.registry.store import connect
    from pipelines.registry.versions.aliases import find_champion
    from pipelines.registry.versions.register import register_model
    from pipelines.scoring.compare import SERVE_SCRIPT, compare, example_inputs
    from pipelines.storage import Folder
    from pipelines.tables import DOCUMENTS

    connect(config.tracking.uri, config.tracking.artifacts)
    (run, documents), name, phase = work.inputs, config.name, work.progress.phase
    phase(f"registering the model of run {run.run_id}")
    rows = select_kept(DOCUMENTS.read(work.spark, documents.path, documents.version), config.split)
    with Folder(run.folder).local("model") as folder:
        examples = example_inputs(rows, folder)
        version = register_model(run.run_id, folder, name, code=SERVE_SCRIPT, input_example=examples)
    verdict = compare(rows, name, version, min_gain=config.min_gain, batch_size=config.batch_size, say=phase)
    verdict = require_decontaminated(verdict, run.run_id, config.decontaminated_from)
    verdict = apply_verdict(verdict, run.run_id, name, made_from=work.fingerprint)
    state = "champion" if find_champion(name) == version else "challenger"
    return {"model version": f"{name} {version} ({state})", "gate": verdict.reason}


if __name__ == "__main__":
    run_command("registry", Config, main, plan)
