"""What is measured of a stage: memory while it runs, shuffled bytes from Spark's event log, table sizes."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from jobs.shell.repeating import repeat_every

Sample = dict[str, Any]


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
    """Peaks of resident memory while the context lasts: jvm_bytes, of the JVM that is driver and executor,
    and worker_bytes, of the largest Python worker. garbage_seconds: how long the JVM stood still to collect
    garbage."""
    peaks = {"jvm_bytes": 0, "worker_bytes": 0, "garbage_seconds": 0.0}
    before = _count_garbage_seconds()

    def look() -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                name = "jvm_bytes" if "java" in process.name() else "worker_bytes"
                peaks[name] = max(peaks[name], process.memory_info().rss)
            except psutil.Error:
                continue  # it has ended

    with repeat_every(0.5, look):
        yield peaks
    peaks["garbage_seconds"] = _count_garbage_seconds() - before


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


def _count_garbage_seconds() -> float:
    """Since the JVM started; 0 before that."""
    from pyspark import SparkContext

    jvm = SparkContext._jvm
    if jvm is None:
        return 0.0
    beans = jvm.java.lang.management.ManagementFactory.getGarbageCollectorMXBeans()
    return sum(int(bean.getCollectionTime()) for bean in beans) / 1_000


def add_shuffles(samples: list[Sample], log: Path) -> None:
    """Set shuffle_bytes: what the tasks wrote that started while the stage ran."""
    for sample in samples:
        sample["shuffle_bytes"] = 0
    for file in (path for path in log.rglob("*") if path.is_file()):
        with file.open(encoding="utf-8") as events:
            for line in events:
                if '"SparkListenerTaskEnd"' not in line:
                    continue
                event = json.loads(line)
                launched, metrics = event["Task Info"]["Launch Time"] / 1000, event.get("Task Metrics")
                for sample in samples:
                    if metrics and sample["started"] <= launched <= sample["ended"]:
                        sample["shuffle_bytes"] += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
