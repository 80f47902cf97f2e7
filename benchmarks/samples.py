"""What is measured of a stage: memory while it runs, shuffled bytes from Spark's event log, table sizes."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from jobs.shell.repeating import repeat_every

Sample = dict[str, Any]
GARBAGE_SECONDS = 2.0


def measure_table(path: str, root: Path) -> dict[str, int]:
    """Rows and bytes of a table that a stage has written; of sequences also tokens, and bytes of the arrays
    that each training host gets."""
    from pipelines.dataset.reader import open_split
    from pipelines.pin import pin

    found = pin(path)
    assert found is not None, f"no table at {path}"
    measured = {"rows": int(found.num_rows), "table_bytes": count_bytes(Path(path))}
    if found.table != "sequences":
        return measured
    copies = root / "copies"
    copies.mkdir()
    reader = open_split(path, table_id=found.table_id, version=found.version, split="train", copies=copies)
    measured |= {"copied_tokens": int(reader.lengths.sum()), "copy_bytes": count_bytes(copies)}
    shutil.rmtree(copies)
    return {**measured, "tokens": sum(counts["tokens"] for counts in found.facts["splits"].values())}


def count_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def watch_memory() -> Iterator[dict[str, float]]:
    """The peaks of the JVM's living objects and of the largest Python worker, while the context lasts.

    Living objects are what is left after a full collection of garbage, every GARBAGE_SECONDS: what young
    collections leave grows with the time that a stage runs. Without the pages in which tasks sort and
    aggregate: they live shorter than that, and `add_tasks` has their exact peak. pause_seconds: how long the
    collections took.
    """
    peaks = {"living_bytes": 0, "worker_bytes": 0, "pause_seconds": 0.0}

    def look() -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                if "java" not in process.name():
                    peaks["worker_bytes"] = max(peaks["worker_bytes"], process.memory_info().rss)
            except psutil.Error:
                continue  # it has ended

    def collect() -> None:
        started = time.perf_counter()
        peaks["living_bytes"] = max(peaks["living_bytes"], _living_bytes())
        peaks["pause_seconds"] += time.perf_counter() - started

    with repeat_every(0.5, look), repeat_every(GARBAGE_SECONDS, collect):
        yield peaks


@contextmanager
def watch_size(folder: Path) -> Iterator[dict[str, int]]:
    """The most bytes that were in the folder while the context lasts, files that are deleted later included.

    Looked at every half second: files that live shorter may be missed.
    """
    size = {"peak_bytes": 0}

    def look() -> None:
        with suppress(FileNotFoundError):  # a file that is deleted meanwhile; the next look counts
            size["peak_bytes"] = max(size["peak_bytes"], count_bytes(folder))

    with repeat_every(0.5, look):
        yield size
    look()


def _living_bytes() -> int:
    """Bytes of the heap in use after a full collection of garbage, without the pages of tasks."""
    from pyspark import SparkContext

    jvm = SparkContext._jvm
    if jvm is None:
        return 0
    environment = jvm.org.apache.spark.SparkEnv.get()
    if environment is None:
        return 0
    memory = jvm.java.lang.management.ManagementFactory.getMemoryMXBean()
    memory.gc()
    # Asked before and after, because pages come and go meanwhile.
    pages = environment.memoryManager().executionMemoryUsed()
    used = int(memory.getHeapMemoryUsage().getUsed())
    return used - max(int(pages), int(environment.memoryManager().executionMemoryUsed()))


def add_tasks(samples: list[Sample], log: Path, slots: int) -> None:
    """Set shuffle_bytes, what the tasks wrote that started while the stage ran; task_bytes, the most memory
    that one of them sorted and aggregated in; and jvm_bytes, living bytes and such a task in each slot."""
    for sample in samples:
        sample["shuffle_bytes"] = sample["task_bytes"] = 0
    for file in (path for path in log.rglob("*") if path.is_file()):
        with file.open(encoding="utf-8") as events:
            for line in events:
                if '"SparkListenerTaskEnd"' not in line:
                    continue
                event = json.loads(line)
                launched, metrics = event["Task Info"]["Launch Time"] / 1000, event.get("Task Metrics")
                for sample in samples:
                    if metrics and sample["started"] <= launched <= sample["ended"]:
                        written = metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
                        sample["shuffle_bytes"] += written
                        peak = metrics["Peak Execution Memory"]
                        sample["task_bytes"] = max(sample["task_bytes"], peak)
    for sample in samples:
        sample["jvm_bytes"] = sample["living_bytes"] + slots * sample["task_bytes"]
