"""Whether Spark can run all ranks at once, and the resource profile that only their stage requests.

A classic session is asked for its number of slots. Over Spark Connect there is no such call: an empty barrier
stage of as many tasks is tried, which Spark refuses at once if slots are missing.
"""

import time
from typing import TYPE_CHECKING, NamedTuple

from pyspark.errors import PySparkException
from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import SparkSession

from pipelines.connect import MODES, is_connect
from pipelines.finetune.launch.faults import find_traceback

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

WAIT_FOR_SLOTS_SECONDS = 8.0
"""Executors of a running cluster may still be registering."""
NO_SLOTS = "SPARK-24819"
"""In Spark's error for a barrier stage with more tasks than slots."""


class _Slots(NamedTuple):
    enough: bool
    number: int | None
    """None over Spark Connect, which does not tell."""


def require_slots(
    spark: SparkSession,
    num_ranks: int,
    *,
    gpus_per_rank: float = 0.0,
    wait_seconds: float = WAIT_FOR_SLOTS_SECONDS,
) -> None:
    """Return when `num_ranks` tasks can run at once. Raises ValueError with the remedy after `wait_seconds`,
    RuntimeError if the session runs no barrier stages.

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
    master = str(spark.conf.get("spark.master", "this Spark"))
    one_process = is_one_process(spark)
    if gpus_per_rank and one_process:
        raise ValueError(
            f"finetune.gpus_per_rank is {gpus_per_rank:g}, but {master} assigns no GPUs to tasks; "
            "set finetune.gpus_per_rank=0 (ranks of one machine share its GPUs out), or use a cluster"
        )
    deadline = time.monotonic() + wait_seconds
    while not (found := _look(spark, num_ranks, gpus_per_rank)).enough:
        if one_process or time.monotonic() > deadline:
            raise ValueError(
                f"finetune.num_ranks is {num_ranks}, but {master} runs "
                f"{_explain_lack(found, num_ranks, gpus_per_rank, one_process=one_process)}"
            )
        time.sleep(0.5)


def is_one_process(spark: SparkSession) -> bool:
    """Whether driver and executor are one process; local-cluster has executors."""
    master = str(spark.conf.get("spark.master", ""))
    return master == "local" or master.startswith("local[")


def num_slots(spark: SparkSession, gpus_per_rank: float = 0.0) -> int:
    """Tasks that a classic session runs at once now, by Spark's own count for barrier stages."""
    context = spark.sparkContext._jsc.sc()
    manager = context.resourceProfileManager()
    profile = make_profile(spark, gpus_per_rank)
    if profile is None:
        return int(context.maxNumConcurrentTasks(manager.defaultResourceProfile()))
    manager.addResourceProfile(profile._java_resource_profile)
    return int(context.maxNumConcurrentTasks(profile._java_resource_profile))


def make_profile(spark: SparkSession, gpus_per_rank: float) -> ResourceProfile | None:
    """What one rank requests; None = as every other task.

    It requests for tasks alone: executors stay as they are, and barrier stages accept no other profile while
    dynamic allocation is off. So the stages without GPUs keep all slots of their executors, which
    spark.task.resource.gpu.amount=1 for the whole application would cut to one per GPU.
    """
    if not gpus_per_rank:
        return None
    cpus = int(spark.conf.get("spark.task.cpus", "1") or 1)
    return (
        ResourceProfileBuilder()
        .require(TaskResourceRequests().cpus(cpus).resource("gpu", gpus_per_rank))
        .build
    )


def _look(spark: SparkSession, num_ranks: int, gpus_per_rank: float) -> _Slots:
    if is_connect(spark):
        return _Slots(_try_barrier(spark, num_ranks, gpus_per_rank), None)
    slots = num_slots(spark, gpus_per_rank)
    return _Slots(slots >= num_ranks, slots)


def _try_barrier(spark: SparkSession, num_ranks: int, gpus_per_rank: float) -> bool:
    """Whether Spark starts a barrier stage of so many tasks; it does nothing, in about a second.

    The shuffle after it matters: Spark checks a barrier stage without one again every 15 s for 10 minutes.
    """

    def drain(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        for _ in batches:
            pass
        return iter(())

    tasks = spark.range(0, num_ranks, 1, num_ranks)
    try:
        profile = make_profile(spark, gpus_per_rank)
        tasks.mapInArrow(drain, "nothing INT", barrier=True, profile=profile).repartition(1).collect()
    except PySparkException as error:
        if NO_SLOTS in str(error):
            return False
        raise RuntimeError(explain_refusal(str(error))) from error
    return True


def explain_refusal(account: str) -> str:
    """Why a Connect session did not run an empty barrier stage, and what to do.

    An error of the Python workers (another version of Python, a missing package) says itself what is wrong;
    everything else comes from the access mode.
    """
    python = find_traceback(account)
    if python:
        return f"the executors cannot run our Python: {python.splitlines()[-1]}"
    first = account.strip().partition("\n")[0]
    return f"this Spark Connect session cannot run ranks ({first}); {MODES}"


def _explain_lack(found: _Slots, num_ranks: int, gpus_per_rank: float, *, one_process: bool) -> str:
    """What Spark runs at once, and what to do."""
    with_gpus = f" with {gpus_per_rank:g} GPU each" if gpus_per_rank else ""
    tasks = "fewer tasks" if found.number is None else f"{found.number} tasks"
    fewer = f"set finetune.num_ranks={found.number} or " if found.number else ""
    if one_process:
        return f"{tasks} at once; {fewer}give Spark --master local[{num_ranks},4]"
    gpus = " and GPUs (spark.executor.resource.gpu.amount)" if gpus_per_rank else ""
    return (
        f"{tasks}{with_gpus} at once; {fewer}give Spark more executors or executor cores{gpus}, or set "
        "finetune.wait_for_slots_seconds if executors start slowly"
    )
