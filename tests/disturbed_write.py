"""Script: write tables on a cluster whose shuffle files are damaged, whose executor is killed, or whose first
task is run a second time, meanwhile.

Arguments: folder, disturbances (none, damage, kill, speculate), one table each, in the folder of its name.
Prints one line of JSON.
"""

import json
import math
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pyspark import TaskContext
from pyspark.sql import SparkSession

from pipelines import held
from pipelines.delta import Table
from pipelines.pin import pin
from pipelines.shards import make_shard_writer
from pipelines.spark import session
from tests.processes import SHORT_JVM

NUMBERS = Table(
    name="numbers", row="one number", key=("number",), ddl="number BIGINT NOT NULL, text STRING NOT NULL"
)
NUM_ROWS, NUM_TASKS = 4000, 8
SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.quantile": "0.5",
    "spark.speculation.multiplier": "1.1",
}


def make_numbers(spark):
    numbers = spark.range(0, NUM_ROWS, 1, NUM_TASKS)
    return numbers.selectExpr("id AS number", "repeat(sha2(cast(id AS string), 256), 4) AS text")


def delay_first_task(folder: Path) -> None:
    """The first attempt of task 0 writes its shards as ever, then waits until Spark ends it: the other one
    has told the driver its own."""
    attempts = str(folder / "attempts")

    def make_writer(plan):
        write = make_shard_writer(plan)

        def run(batches):
            for result in write(batches):
                context = TaskContext.get()
                Path(attempts, f"{context.partitionId()}-{context.attemptNumber()}").touch()
                if context.partitionId() == context.attemptNumber() == 0:
                    threading.Event().wait(120)
                yield result

        return run

    held.make_shard_writer = make_writer


def disturb(folder: Path, local: Path, kind: str) -> None:
    """After the second task of the stage that writes, while the others still wait for shuffled rows."""
    earlier = set(local.rglob("shuffle_*.data"))
    deadline = time.monotonic() + 120
    while len(seen := sorted((folder / "seen").iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    if kind == "kill":
        os.kill(int(seen[0].name.partition("-")[0]), signal.SIGKILL)
    if kind == "damage":
        for file in {*local.rglob("shuffle_*.data")} - earlier:
            content = bytearray(file.read_bytes())
            middle = len(content) // 2
            content[middle : middle + 64] = os.urandom(64)
            file.write_bytes(content)
            with (folder / "damaged").open("a") as note:
                note.write(f"{file.name}\n")


def main(folder: Path, kinds: list[str]) -> None:
    for name in ("local", "events"):
        (folder / name).mkdir(parents=True)
    spark = session(
        "disturbed",
        {
            "spark.local.dir": str(folder / "local"),
            "spark.sql.shuffle.partitions": str(NUM_TASKS),
            "spark.sql.adaptive.coalescePartitions.enabled": "false",
            "spark.reducer.maxBlocksInFlightPerAddress": "1",
            "spark.databricks.delta.snapshotPartitions": "1",
            "spark.ui.enabled": "false",
            "spark.executor.extraJavaOptions": SHORT_JVM,
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": f"file:{folder}/events",
            "spark.eventLog.compress": "false",
            **(SPECULATION if "speculate" in kinds else {}),
        },
    )
    spark.sparkContext.setLogLevel("OFF")
    outcomes, begins = {}, []
    for kind in kinds:
        begins.append(time.time() * 1000)
        outcomes[kind] = write(spark, folder / kind, folder / "local", kind)
    spark.stop()  # now the log is complete
    for outcome, begin, end in zip(outcomes.values(), begins, [*begins[1:], math.inf], strict=True):
        outcome["most attempts"] = max(count_attempts(folder / "events", begin, end).values())
    print("RESULT " + json.dumps(outcomes))


def write(spark: SparkSession, folder: Path, local: Path, kind: str) -> dict[str, Any]:
    """Write one table while `disturb` works; what the tests check, but for the attempts of stages."""
    for name in ("seen", "attempts"):
        (folder / name).mkdir(parents=True)
    if kind == "speculate":
        delay_first_task(folder)
    seen = str(folder / "seen")

    def slowly(batches):
        for batch in batches:
            # The parent of a Python worker is its daemon, whose parent is the executor.
            stat = Path(f"/proc/{os.getppid()}/stat").read_text()
            executor = stat.rpartition(")")[2].split()[1]
            (Path(seen) / f"{executor}-{time.time_ns()}").touch()
            time.sleep(0.7)
            yield batch

    rows = (
        make_numbers(spark).repartition(NUM_TASKS, "number").mapInArrow(slowly, "number BIGINT, text STRING")
    )
    watcher = threading.Thread(target=disturb, args=(folder, local, kind))
    watcher.start()
    written = NUMBERS.overwrite(rows, str(folder / "table"), fingerprint="a", facts={})
    watcher.join()
    found = NUMBERS.digest(NUMBERS.read(spark, str(folder / "table")))
    tracker = spark.sparkContext.statusTracker()
    return {
        "pinned": written == pin(str(folder / "table")),
        "digest": written.digest,
        "read": found == (written.digest, NUM_ROWS),
        "executors": len({each.name.partition("-")[0] for each in (folder / "seen").iterdir()}),
        "tasks": len(list((folder / "seen").iterdir())),
        "attempts": sorted(each.name for each in (folder / "attempts").iterdir()),
        "damaged": (folder / "damaged").exists(),
        "jobs failed": sum(
            tracker.getJobInfo(job).status == "FAILED" for job in tracker.getJobIdsForGroup(None)
        ),
    }


def count_attempts(events: Path, begin: float, end: float) -> Counter[int]:
    """Stage -> how often Spark submitted it between two times, in milliseconds."""
    attempts = Counter[int]()
    for file in events.rglob("events_*"):
        for line in file.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["Event"] == "SparkListenerStageSubmitted":
                stage = event["Stage Info"]
                attempts[stage["Stage ID"]] += begin <= stage["Submission Time"] < end
    return attempts


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
