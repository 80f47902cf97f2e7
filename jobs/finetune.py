"""Stage 3: sequences to an MLflow run with a model folder.

Horovod ranks train inside one Spark barrier stage; a killed training continues from its last checkpoint.
"""

from typing import Annotated, Literal

from pydantic import Field

from jobs.shell.command import run_command
from jobs.shell.plan import Outcome, Plan
from jobs.shell.progress import show_progress
from jobs.shell.settings import AbsolutePath, Section
from jobs.training import finished_run, plan_for, run_training, told, training_of
from pipelines.finetune.models.build import Architecture
from pipelines.finetune.optimizer import Optimization
from pipelines.finetune.worker import result_of
from pipelines.lease import Lease
from pipelines.registry.runs.current import CurrentRun, write_current
from pipelines.storage import Folder

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
    evaluate_every_steps: Positive
    checkpoint_every_steps: Positive
    log_every_steps: Positive
    evaluation_split: Split
    final_split: Split


def plan(config: Config) -> Plan[None]:
    return plan_for(config, *training_of(config)[:2])


def main(config: Config) -> Outcome:
    training, made_from, sequences = training_of(config)
    planned = plan_for(config, training, made_from)
    if not planned.up_to_date:
        with show_progress("finetune") as work, Lease(Folder(training.folder)) as lease:
            run_id = finished_run(config.tracking, training, made_from) or run_training(
                config, training, made_from, sequences, lease=lease, work=work
            )
            write_current(config.folder, CurrentRun(run_id, made_from, training.folder))
    return Outcome(
        stage="finetune", ran=not planned.up_to_date, why=planned.why, facts=told(result_of(training.folder))
    )


if __name__ == "__main__":
    run_command("finetune", Config, main, plan)
