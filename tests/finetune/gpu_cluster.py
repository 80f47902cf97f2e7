"""Two executors, each with two slots and one GPU of a discovery script: what slots and ranks get, as JSON.

python -m tests.finetune.gpu_cluster
"""

import json
import os
import time

from pyspark.sql import functions as F

from pipelines.finetune.launch.barrier import run_ranks
from pipelines.finetune.launch.slots import num_slots, require_slots
from pipelines.spark import session

TASK_SECONDS = 3.0


def main() -> dict:
    spark = session("GPUs")
    require_slots(spark, 4, wait_seconds=60)  # both executors are there
    return {
        "slots": {gpus: num_slots(spark, gpus) for gpus in (0.0, 0.5, 1.0)},
        "ranks": run_ranks(spark, look_at_gpu, num_ranks=2, collectives="torch", gpus_per_rank=1.0),
        "shared": run_ranks(spark, look_at_gpu, num_ranks=4, collectives="torch", gpus_per_rank=0.5),
        "without": run_ranks(spark, look_at_gpu, num_ranks=2, collectives="torch"),
        "at_once": count_tasks_at_once(spark),
        "refused": refuse(spark),
    }


def look_at_gpu(world):
    return world.gpu, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")


def count_tasks_at_once(spark) -> int:
    """Tasks of an ordinary stage that run at the same time."""

    def note_times(batches):
        import pyarrow as pa

        for _ in batches:
            pass
        started = time.time()
        time.sleep(TASK_SECONDS)
        yield pa.RecordBatch.from_pydict({"start": [started], "stop": [time.time()]})

    stage = spark.range(0, 4, 1, 4).mapInArrow(note_times, "start DOUBLE, stop DOUBLE")
    for _ in range(2):  # in the second round no task waits for the start of its Python worker
        times = stage.agg(F.collect_list(F.struct("start", "stop"))).collect()[0][0]
    return max(sum(a["start"] <= b["start"] < a["stop"] for a in times) for b in times)


def refuse(spark) -> str:
    try:
        require_slots(spark, 3, gpus_per_rank=1.0, wait_seconds=1)
    except ValueError as error:
        return str(error)
    return "not refused"


if __name__ == "__main__":
    print(json.dumps(main()))
