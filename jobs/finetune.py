"""Stage 3: sequences to an MLflow run with a model folder, by ranks in a Spark barrier stage.
A training that was killed continues from its newest checkpoint."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from jobs.shell.command import run_command
from jobs.shell.plan import Outcome, Plan, require_unmodified_table
from jobs.shell.redaction import redact
from jobs.shell.settings import AbsolutePath, Section
from jobs.shell.stage import Work, run_stage
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.training import Backend, Optimization, StrategyName, Training, make_training

if TYPE_CHECKING:
    from pipelines.pin import Pin

Positive = Annotated[int, Field(ge=1)]
Split = Literal["train", "validation", "test"]


class Config(Section):
    sequences: AbsolutePath
    tokenizers: AbsolutePath
    folder: AbsolutePath
    model: Architecture
    optimization: Optimization
    num_epochs: Annotated[float, Field(gt=0)]
    global_batch: Positive
    micro_batch: Positive
    window_batches: Positive
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    num_ranks: Positive
    num_threads: Positive
    strategy: StrategyName
    collectives: Backend
    wait_for_slots_seconds: Annotated[float, Field(ge=0)]
    evaluate_every_steps: Positive
    max_evaluation_sequences: Positive | None
    checkpoint_every_steps: Positive
    log_every_steps: Positive
    evaluation_split: Split
    final_split: Split


def plan(config: Config) -> "Plan[tuple[Training, Pin]]":
    from pipelines.registry.lookup import Lookup
    from pipelines.registry.runs.state import find_state

    lookup = Lookup(config.tracking.uri, config.tracking.artifacts)
    sequences = require_unmodified_table(config.sequences, "sequences", "dataset")
    training = make_training(config, sequences)
    up_to_date, why, facts = find_state(training, lookup, config.tracking.experiment, config.folder)
    inputs = (training, sequences)
    return Plan(fingerprint=training.fingerprint, up_to_date=up_to_date, why=why, inputs=inputs, facts=facts)


def main(config: Config) -> Outcome:
    return run_stage("finetune", config, plan, write_run)


def write_run(config: Config, work: "Work[tuple[Training, Pin]]") -> dict[str, str]:
    from pipelines.finetune.driver import Listeners, require_slots, run_training
    from pipelines.registry.runs.training import record_run
    from pipelines.registry.store import connect

    (training, sequences), num_ranks, show = work.inputs, config.num_ranks, work.progress
    tracking, params = config.tracking, redact({**training.settings(), "num_ranks": num_ranks})
    require_slots(work.spark, num_ranks, wait_seconds=config.wait_for_slots_seconds)
    connect(tracking.uri, tracking.artifacts)
    with record_run(training, sequences, tracking.experiment, params, config.effective, config.folder) as run:
        listeners = Listeners(run.log, show.update, show.print, run.require_lease)
        run_training(work.spark, training, listeners, num_ranks=num_ranks)
    return run.facts


if __name__ == "__main__":
    run_command("finetune", Config, main, plan)
