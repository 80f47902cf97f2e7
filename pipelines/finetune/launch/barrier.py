"""Run a function as ranks inside one Spark barrier stage, in classic Spark and over Spark Connect.

The barrier stage gives gang scheduling, GPU addresses and retries by Spark; inside it, `rendezvous` joins the
tasks to one world. It is a `mapInArrow`, which needs no SparkContext. A shuffle of one row per rank follows,
because Spark never retries a barrier stage that ends the job. An exception is returned as a value, so that
it reaches the driver with its own traceback and is not tried four times; after a rank that dies, and after a
fault of storage, network or GPU, Spark runs the stage again, at most spark.stage.maxConsecutiveAttempts
times.
"""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import InheritableThread
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipelines.connect import is_connect
from pipelines.finetune.launch.faults import find_traceback
from pipelines.finetune.launch.rendezvous import OUTCOMES, Failure, read_outcome, run_partition, run_task
from pipelines.finetune.launch.slots import WAIT_FOR_SLOTS_SECONDS, make_profile, require_slots
from pipelines.finetune.launch.world import World
from pipelines.finetune.parallel.rules import Backend
from pipelines.stores import carry
from pipelines.torch_workers import torch_workers

MAX_LAUNCHES = 3
"""Launches when ranks lost each other and none knows why (a network fault)."""
POLL_SECONDS = 1.0


class RankError(RuntimeError):
    """An exception in a rank, raised at the driver with rank, host and the rank's own traceback."""


class RanksLostError(RankError):
    """Ranks ended without an exception of their own, as often as Spark tries: the same may go well later."""


def run_ranks(
    spark: SparkSession,
    work: Callable[[World], Any],
    *,
    num_ranks: int,
    collectives: Backend = "horovod",
    gpus_per_rank: float = 0.0,
    variables: Mapping[str, str] = MappingProxyType({}),
    wait_for_slots_seconds: float = WAIT_FOR_SLOTS_SECONDS,
    while_waiting: Callable[[], None] = lambda: None,
) -> list[Any]:
    """Run `work(world)` on `num_ranks` ranks at once; their results by rank, as JSON holds them.
    `while_waiting` is called about once a second. `gpus_per_rank`: what each rank requests from Spark; 0 =
    what every task of the application gets. `variables`: of the environment in which the ranks join.

    Raises ValueError if the cluster has too few slots after wait_for_slots_seconds, RankError if a rank
    raises.
    """
    require_slots(spark, num_ranks, gpus_per_rank=gpus_per_rank, wait_seconds=wait_for_slots_seconds)
    task = partial(
        run_task, carry(work), num_ranks=num_ranks, collectives=collectives, variables={**variables}
    )
    for launch in range(1, MAX_LAUNCHES + 1):
        outcomes = _run_stage(spark, task, num_ranks, gpus_per_rank, while_waiting)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        if not failures:
            return outcomes
        causes = [failure for failure in failures if not failure.is_echo]
        if causes or launch == MAX_LAUNCHES:
            first = (causes or failures)[0]
            raise RankError(
                f"rank {first.rank} on {first.host} failed: {first.summary}\n\n"
                f"Traceback on that rank:\n{first.traceback}"
            )
    raise AssertionError("unreachable: the last launch returns or raises")


def _run_stage(
    spark: SparkSession,
    task: Callable[[], tuple[int, Any]],
    num_ranks: int,
    gpus_per_rank: float,
    while_waiting: Callable[[], None],
) -> list[Any]:
    """One barrier stage in its own thread, so that the driver can watch; cancelled if the driver is
    interrupted.
    """
    collected: dict[str, Any] = {}
    tag = f"ranks-{os.getpid()}-{time.time_ns()}"

    def run() -> None:
        try:
            _tag_jobs(spark, tag, f"{num_ranks} ranks")
            tasks = spark.range(0, num_ranks, 1, num_ranks)
            profile = make_profile(spark, gpus_per_rank)
            with torch_workers(spark):
                ranks = tasks.mapInArrow(run_partition(task), OUTCOMES, barrier=True, profile=profile)
            # The shuffle makes the barrier stage a shuffle-map stage: Spark runs those again after a rank
            # died.
            collected["rows"] = ranks.repartition(1).collect()
        except (Py4JJavaError, PySparkException) as error:
            collected["error"] = _explain_giving_up(str(error))
        except BaseException as error:
            collected["error"] = error

    thread = InheritableThread(target=run, session=spark, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            while_waiting()
    except BaseException:
        _cancel_jobs(spark, tag)
        raise
    if "error" in collected:
        raise collected["error"]
    outcomes = {row["rank"]: read_outcome(row["outcome"]) for row in collected["rows"]}
    return [outcomes[rank] for rank in range(num_ranks)]


def _tag_jobs(spark: SparkSession, tag: str, description: str) -> None:
    """Mark the jobs that this thread starts from now on."""
    if is_connect(spark):
        spark.addTag(tag)
        return
    spark.sparkContext.addJobTag(tag)
    spark.sparkContext.setLocalProperty("spark.job.description", description)


def _cancel_jobs(spark: SparkSession, tag: str) -> None:
    """Cancel marked jobs from any thread. In classic Spark, interruptTag knows the tags of its own thread
    only.
    """
    if is_connect(spark):
        spark.interruptTag(tag)
    else:
        spark.sparkContext.cancelJobsWithTag(tag)


def _explain_giving_up(account: str) -> RanksLostError:
    """The last Python error of a rank, from the JVM's account of a stage that failed at every try."""
    python = find_traceback(account)
    if python:
        return RanksLostError(f"the ranks failed at every try: {python.splitlines()[-1]}\n\n{python}")
    return RanksLostError(
        "the ranks failed at every try; a process that dies without an error is out of memory (lower "
        f"finetune.micro_batch, give executors more) or cannot reach the other ranks (a firewall)"
        f"\n\n{account[:2000]}"
    )
