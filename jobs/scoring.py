"""Stage 5: documents to predictions of a registered model.

Reads documents of one split and the version that an alias names now; skips what it scored before."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from jobs.shell.command import run_command
from jobs.shell.facts import display_predictions
from jobs.shell.plan import Outcome, Plan, plan_tables, require_table
from jobs.shell.settings import Positive, Section, TablePlace
from jobs.shell.stage import Check, Work, check_nothing, run_stage

if TYPE_CHECKING:
    from pipelines.pin import Pin
    from pipelines.registry.lookup import VersionRef

REVISION = 5  # raise it when equal documents and models give other predictions than before


class Config(Section):
    name: str
    alias: str | int
    documents: TablePlace
    split: Literal["train", "validation", "test", "all"]
    predictions: TablePlace
    batch_size: Positive
    num_partitions: Positive | None
    precision: Literal["auto", "float32", "bfloat16"]
    adapter: str | None
    adapter_column: str | None


def plan(config: Config) -> "Plan[tuple[Pin, VersionRef]]":
    from pipelines.pin import fingerprint
    from pipelines.registry.lookup import Lookup

    lookup = Lookup(config.tracking.uri, config.tracking.artifacts)
    documents = require_table(config.documents, "documents", "corpus")
    inputs = documents, (model := lookup.find_version(config.name, config.alias))
    settings = (model.name, model.version, model.run_id, documents.identity(), config.split)
    wanted = [config.adapter, config.adapter_column] if config.adapter or config.adapter_column else []
    made_from = fingerprint("scoring", REVISION, *settings, lookup.read_last_verdict(config.name), *wanted)
    return plan_tables(made_from, [config.predictions], display_predictions, inputs=inputs, appended=True)


def main(config: Config, check: Check = check_nothing) -> Outcome:
    return run_stage("scoring", config, plan, write_predictions, check)


def write_predictions(config: Config, work: "Work[tuple[Pin, VersionRef]]") -> dict[str, str]:
    from pipelines.registry.store import connect
    from pipelines.registry.versions.resolve import locate_model
    from pipelines.scoring import adapters, batch, select
    from pipelines.tables import DOCUMENTS, PREDICTIONS

    connect(config.tracking.uri, config.tracking.artifacts)
    (documents, ref), spark = work.inputs, work.spark
    model, earlier = locate_model(*ref[:2]), select.read_predictions(spark, config.predictions)
    rows = select.select_split(DOCUMENTS.read(spark, documents.path, documents.version), config.split)
    where, rows = adapters.place_adapters(rows, model, config.adapter, column=config.adapter_column)
    with select.choose_documents(rows, earlier, model, num_partitions=config.num_partitions) as chosen:
        work.progress.phase(f"scoring with {model.name} {model.version}: {chosen.num_rows:,} documents")
        scored = batch.score_documents(
            chosen.rows,
            where,
            model,
            batch_size=config.batch_size,
            precision=config.precision,
            documents_version=documents.version,
            scored_at=datetime.now(UTC),
        )
        facts = {"model": f"{model.name} {model.version}", "run": model.run_id, "before": chosen.num_before}
        pin = PREDICTIONS.append(scored, config.predictions, fingerprint=work.fingerprint, facts=facts)
    return display_predictions(pin)


if __name__ == "__main__":
    run_command("scoring", Config, main, plan)
