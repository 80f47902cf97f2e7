"""Stage 5: documents to predictions of a registered model.

Reads documents of one split and the version that an alias names now; skips what it scored before."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from jobs.shell.command import run_command
from jobs.shell.facts import display_predictions
from jobs.shell.plan import Outcome, Plan, plan_tables, require_table
from jobs.shell.settings import Section, TablePlace
from jobs.shell.stage import Work, run_stage

if TYPE_CHECKING:
    from pipelines.pin import Pin
    from pipelines.registry.lookup import VersionRef

REVISION = 3  # raise it when equal documents and models give other predictions than before


class Config(Section):
    name: str
    alias: str | int
    documents: TablePlace
    split: Literal["train", "validation", "test", "all"]
    predictions: TablePlace
    batch_size: Annotated[int, Field(ge=1)]
    num_partitions: Annotated[int, Field(ge=1)]


def plan(config: Config) -> "Plan[tuple[Pin, VersionRef]]":
    from pipelines.pin import fingerprint
    from pipelines.registry.lookup import Lookup

    lookup = Lookup(config.tracking.uri, config.tracking.artifacts)
    documents = require_table(config.documents, "documents", "corpus")
    inputs = documents, (model := lookup.find_version(config.name, config.alias))
    settings = (model.name, model.version, model.run_id, documents.identity(), config.split)
    made_from = fingerprint("scoring", REVISION, *settings, lookup.read_last_verdict(config.name))
    return plan_tables(made_from, [config.predictions], display_predictions, inputs=inputs, appended=True)


def main(config: Config) -> Outcome:
    return run_stage("scoring", config, plan, write_predictions)


def write_predictions(config: Config, work: "Work[tuple[Pin, VersionRef]]") -> dict[str, str]:
    from pipelines.pin import version_of
    from pipelines.registry.store import connect
    from pipelines.registry.versions.resolve import resolve_model
    from pipelines.scoring import batch
    from pipelines.tables import DOCUMENTS, PREDICTIONS

    (documents, ref), spark, num_before = work.inputs, work.spark, 0
    connect(config.tracking.uri, config.tracking.artifacts)
    model = resolve_model(ref.name, ref.version)
    rows = batch.select_split(DOCUMENTS.read(spark, documents.path, documents.version), config.split)
    if version_of(config.predictions) >= 0:
        predictions = PREDICTIONS.read(spark, config.predictions)
        num_before = batch.select_model(predictions, model).count()
        rows = batch.select_unscored(rows, predictions, model)
    work.progress.phase(f"scoring with {model.name} version {model.version}")
    scored = batch.score_documents(
        batch.partition_by_id(rows, num_partitions=config.num_partitions),
        model.folder,
        model,
        batch_size=config.batch_size,
        documents_version=documents.version,
        scored_at=datetime.now(UTC),
    )
    facts = {"model": f"{model.name} {model.version}", "run": model.run_id, "before": num_before}
    pin = PREDICTIONS.append(scored, config.predictions, fingerprint=work.fingerprint, facts=facts)
    return display_predictions(pin)


if __name__ == "__main__":
    run_command("scoring", Config, main, plan)
