"""Stage 3: the sequences table to one MLflow run with a model folder, trained by Horovod ranks in a Spark barrier stage."""

from functools import partial
from typing import Annotated

import typer
from pydantic import Field

from jobs.config import Section
from jobs.stage import Outcome, Plan, command, working
from jobs.training import finished_run, told, tracked, training_of, watcher
from pipelines.finetune.launch import require_slots, run_ranks
from pipelines.finetune.model import Architecture
from pipelines.finetune.optimizer import Optimization
from pipelines.finetune.train import Training, result_of, train_rank
from pipelines.spark import session

Positive = Annotated[int, Field(ge=1)]


class Config(Section):
    sequences: str
    tokenizers: str
    folder: str
    model: Architecture
    optimization: Optimization
    num_epochs: Annotated[float, Field(gt=0)]
    global_batch: Positive
    micro_batch: Positive
    window_batches: Positive
    seed: Annotated[int, Field(ge=0)]
    num_ranks: Positive
    num_threads: Positive
    evaluate_every_steps: Positive
    checkpoint_every_steps: Positive
    log_every_steps: Positive
    evaluation_split: str
    final_split: str


def plan(config: Config) -> Plan:
    return plan_for(config, *training_of(config)[:2])


def plan_for(config: Config, training: Training, made_from: str) -> Plan:
    run = finished_run(config.tracking, made_from)
    if run is None or result_of(training.folder) is None:
        return Plan(fingerprint=made_from, up_to_date=False, why="no finished run of these sequences and settings yet")
    return Plan(fingerprint=made_from, up_to_date=True, why=f"run {run} was trained from the same sequences and settings")


def main(config: Config) -> Outcome:
    training, made_from, sequences = training_of(config)
    planned = plan_for(config, training, made_from)
    if planned.up_to_date:
        return Outcome(stage="finetune", ran=False, why=planned.why, facts=told(result_of(training.folder)))
    with working("finetune") as work:
        work.say("starting Spark")
        spark = session("distributary finetune", config.spark)
        require_slots(spark, config.num_ranks)
        with tracked(config, training, made_from, sequences) as tracker:
            watch = watcher(training.folder, work, tracker.log)
            work.say(f"launching {config.num_ranks} ranks")
            if result_of(training.folder) is None:
                run_ranks(spark, partial(train_rank, training), num_ranks=config.num_ranks, while_waiting=watch)
            watch()
            work.say("writing pictures to the run")
            result = tracker.conclude(result_of(training.folder), training.spec.labels)
    return Outcome(stage="finetune", ran=True, why=planned.why, facts=told(result))


if __name__ == "__main__":
    typer.run(command("finetune", Config, main, plan))
