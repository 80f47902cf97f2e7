"""Run a function as ranks inside one Spark barrier stage.

The barrier stage gives gang scheduling, GPU addresses and retries by Spark; inside it, `rendezvous` joins the
tasks to one world. The stage is followed by a one-row shuffle, because Spark never retries a barrier stage
that ends the job. An exception is returned as a value, so that it reaches the driver with its own traceback
and is not tried four times; after a rank that dies, and after a fault of storage, network or GPU, Spark runs
the stage again, at most spark.stage.maxConsecutiveAttempts times.
"""

import os
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import InheritableThread
from pyspark.sql import SparkSession

from pipelines.finetune.launch.rendezvous import Failure, run_task
from pipelines.finetune.launch.world import World
from pipelines.finetune.training import Backend
from pipelines.stores import carry

WAIT_FOR_SLOTS_SECONDS = 8.0
"""Executors of a running cluster may still be registering."""
MAX_LAUNCHES = 3
"""Launches when ranks lost each other and none knows why (a network fault)."""
POLL_SECONDS = 1.0


class RankError(RuntimeError):
    """An exception in a rank, raised at the driver with rank, host and the rank's own traceback."""


def run_ranks(
    spark: SparkSession,
    work: Callable[[World], Any],
    *,
    num_ranks: int,
    collectives: Backend = "horovod",
    wait_for_slots_seconds: float = WAIT_FOR_SLOTS_SECONDS,
    while_waiting: Callable[[], None] = lambda: None,
) -> list[Any]:
    """Run `work(world)` on `num_ranks` ranks at once; their results by rank. `while_waiting` is called about
    once a second.

    Raises ValueError if the cluster has too few slots after wait_for_slots_seconds, RankError if a rank
    raises.
    """
    require_slots(spark, num_ranks, wait_seconds=wait_for_slots_seconds)
    for launch in range(1, MAX_LAUNCHES + 1):
        outcomes = _run_stage(
            spark, partial(run_task, carry(work), collectives=collectives), num_ranks, while_waiting
        )
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


def num_slots(spark: SparkSession) -> int:
    """Tasks that the cluster runs at once now, by Spark's own count for barrier stages."""
    context = spark.sparkContext._jsc.sc()
    return int(context.maxNumConcurrentTasks(context.resourceProfileManager().defaultResourceProfile()))


def require_slots(
    spark: SparkSession, num_ranks: int, *, wait_seconds: float = WAIT_FOR_SLOTS_SECONDS
) -> None:
    """Return when `num_ranks` tasks can run at once. Raises ValueError with the remedy after `wait_seconds`.

    Local masters are not waited for: their number of slots never changes.
    """
    if num_ranks < 1:
        raise ValueError(f"num_ranks must be at least 1, got {num_ranks}")
    if spark.conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        raise ValueError(
            "barrier stages refuse dynamic allocation; submit with "
            "--conf spark.dynamicAllocation.enabled=false "
            f"and --num-executors for {num_ranks} ranks"
        )
    deadline = time.monotonic() + wait_seconds
    while (slots := num_slots(spark)) < num_ranks:
        master = str(spark.sparkContext.master)
        one_process = master == "local" or master.startswith("local[")  # local-cluster has executors
        if one_process or time.monotonic() > deadline:
            more = f"--master local[{num_ranks},4]" if one_process else "more executors or executor cores"
            fewer = f"set finetune.num_ranks={slots} or " if slots else ""
            raise ValueError(
                f"finetune.num_ranks is {num_ranks}, but {master} runs {slots} tasks at once; "
                f"{fewer}give Spark {more}"
                + (
                    ""
                    if one_process
                    else ", or set finetune.wait_for_slots_seconds if executors start slowly"
                )
            )
        time.sleep(0.5)


def _run_stage(
    spark: SparkSession, task: Callable[[], Any], num_ranks: int, while_waiting: Callable[[], None]
) -> list[Any]:
    """One barrier stage in its own thread, so that the driver can watch; cancelled if the driver is
    interrupted.
    """
    context = spark.sparkContext
    collected: dict[str, Any] = {}
    tag = f"ranks-{os.getpid()}-{time.time_ns()}"

    def run() -> None:
        try:
            context.addJobTag(tag)
            context.setLocalProperty("spark.job.description", f"{num_ranks} ranks")
            ranks = (
                context.parallelize(range(num_ranks), num_ranks).barrier().mapPartitions(lambda _: [task()])
            )
            # The shuffle makes the barrier stage a shuffle-map stage: Spark runs those again after a rank
            # died.
            collected["outcomes"] = ranks.map(lambda outcome: (0, outcome)).groupByKey(1).collect()[0][1]
        except Py4JJavaError as error:
            collected["error"] = _explain_giving_up(str(error))
        except BaseException as error:
            collected["error"] = error

    thread = InheritableThread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            while_waiting()
    except BaseException:
        context.cancelJobsWithTag(tag)
        raise
    if "error" in collected:
        raise collected["error"]
    return [outcome for _, outcome in sorted(collected["outcomes"], key=lambda pair: pair[0])]


def _explain_giving_up(account: str) -> RankError:
    """The last Python error of a rank, from the JVM's account of a stage that failed at every try."""
    python = re.search(
        r"Traceback \(most recent call last\):\n.*?(?=\n\s*\n|\n\tat |\s+SQLSTATE)", account, re.DOTALL
    )
    if python:
        return RankError(f"the ranks failed at every try: {python[0].splitlines()[-1]}\n\n{python[0]}")
    return RankError(
        "the ranks failed at every try; a process that dies without an error is out of memory (lower "
        f"finetune.micro_batch, give executors more) or cannot reach the other ranks (a firewall)"
        f"\n\n{account[:2000]}"
    )
