"""Stage 3: sequences to an MLflow run with a model folder.
Ranks train together in a Spark barrier stage. A killed training continues from its newest checkpoint."""

from typing import TYPE_CHECKING

from jobs.shell.command import run_command
from jobs.shell.data_order import describe_mixture, list_inputs
from jobs.shell.measuring import MeasuringSection
from jobs.shell.plan import Outcome, Plan, require_unmodified_table
from jobs.shell.ranks import RanksSection
from jobs.shell.redaction import redact
from jobs.shell.room import forecast_room, require_room, watch_room
from jobs.shell.settings import AbsolutePath, Positive, TablePlace
from jobs.shell.stage import Check, Work, check_nothing, run_stage
from jobs.shell.task_settings import TaskSection
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.plan import make_training
from pipelines.finetune.preemption import heed_requests
from pipelines.finetune.search.rules import SearchRules
from pipelines.finetune.training import Training

if TYPE_CHECKING:
    from pipelines.pin import Pin


class Config(RanksSection, TaskSection, MeasuringSection):
    sequences: TablePlace
    tokenizers: AbsolutePath
    folder: AbsolutePath
    model: Architecture
    optimization: Optimization
    checkpoint_every_steps: Positive
    log_every_steps: Positive
    sequence_losses: bool
    search: SearchRules
    searches: AbsolutePath


def plan(config: Config) -> "Plan[tuple[Training, Pin]]":
    from pipelines.registry.lookup import Lookup
    from pipelines.registry.runs.state import find_state

    sequences = require_unmodified_table(config.sequences, "sequences", "dataset")
    tracking, training = config.tracking, make_training(config, sequences)
    state = find_state(training, Lookup(tracking.uri, tracking.artifacts), tracking.experiment, config.folder)
    notes, inputs = {**describe_mixture(training), **config.model.adapter.describe()}, (training, sequences)
    look = forecast_room(config, training)
    return Plan(
        fingerprint=training.fingerprint, inputs=inputs, notes=notes, forecast=look, **state._asdict()
    )


def main(config: Config, check: Check = check_nothing) -> Outcome:
    with heed_requests():
        return run_stage("finetune", config, plan, write_run, check)


def write_run(config: Config, work: "Work[tuple[Training, Pin]]") -> dict[str, str]:
    from pipelines.finetune.driver import Listeners, run_training
    from pipelines.registry.runs.training import Description, record_run
    from pipelines.registry.store import connect

    (training, sequences), num_ranks, show = work.inputs, config.num_ranks, work.progress
    about = Description(redact({**training.settings(), "num_ranks": num_ranks}), config.effective, redact)
    connect(config.tracking.uri, config.tracking.artifacts)
    if work.needs_spark:
        require_room(config, work, training)
    inputs = list_inputs(config, work, training, sequences)
    with record_run(training, inputs, config.tracking.experiment, about, config.folder) as run:
        if run.tracker is not None:  # else it had finished before
            listeners = Listeners(run.log, show.update, show.print, run.require_lease)
            with watch_room(config, work, training):
                run_training(work.spark, training, listeners, num_ranks=num_ranks)
    return run.facts


if __name__ == "__main__":
    run_command("finetune", Config, main, plan)
