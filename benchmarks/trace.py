"""Time of `distributary trace` on 10 million sequences, in fresh processes.

The table has the columns, files and log of the dataset stage: 8,000 sequences of three documents are a group
and a file, written by its shard writer. Sequences have 66 tokens, so the table takes some GB: no question
reads them. The run is recorded as a training records it, in a SQLite store.

Each question is asked RUNS times, by a new process each time, of steps and documents chosen at random. The
whole process is timed: by the clock, and of the processor, which other programs disturb less. The first
question also asks MLflow for the run and reads the lengths of all rows, as on a machine that has not trained:
it is reported apart. The page cache is warm: the files were just written.

Exit status: 0, also if the bar is missed (each median below 2 s); 2 if something failed.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import typer
from rich.table import Table

from benchmarks.measuring import run_benchmark
from jobs.shell.display import console
from pipelines.commit import commit_shards, create_table
from pipelines.contract import PROPERTIES
from pipelines.dataset.doc_keys import make_doc_keys
from pipelines.dataset.layout import GROUP_BITS, POSITION_BITS
from pipelines.pin import Pin, open_log, pin
from pipelines.registry.runs.tracker import open_run
from pipelines.registry.store import connect
from pipelines.shards import Shard, ShardFiles, ShardPlan
from pipelines.spark import session
from pipelines.tables import SEQUENCES

RESULT = Path(__file__).parent / "results" / "trace.json"
GROUP_ROWS, BATCH_ROWS = 8_000, 2_000
NUM_SEGMENTS, SEGMENT_TOKENS, SEGMENT_CHARS = 3, 21, 90
GLOBAL_BATCH = 256
RUNS, BAR_SECONDS = 7, 2.0
SEED = 20_261_123


class Group(NamedTuple):
    """The rows of one file."""

    first_id: int
    doc_ids: np.ndarray
    """(rows, NUM_SEGMENTS, 16) bytes."""


def make_groups(num_rows: int) -> list[Group]:
    """Groups with random numbers, as hashes give them, in ascending order."""
    random = np.random.default_rng(SEED)
    sizes = [min(GROUP_ROWS, num_rows - start) for start in range(0, num_rows, GROUP_ROWS)]
    numbers = np.sort(random.choice(2**GROUP_BITS, len(sizes), replace=False)).tolist()
    return [
        Group(number << POSITION_BITS, random.integers(0, 256, (size, NUM_SEGMENTS, 16), dtype=np.uint8))
        for number, size in zip(numbers, sizes, strict=True)
    ]


def name_document(doc_id: np.ndarray) -> str:
    return doc_id.tobytes().hex()


def make_batch(group: Group, rows: slice, schema: pa.Schema) -> pa.RecordBatch:
    """Some rows of a group with the columns of SEQUENCES."""
    ids = group.doc_ids[rows]
    num_rows, num_segments = len(ids), ids.shape[0] * NUM_SEGMENTS
    num_tokens = NUM_SEGMENTS * (SEGMENT_TOKENS + 1)  # the first token of a document is no target
    names = [name_document(doc_id) for doc_id in ids.reshape(-1, 16)]
    segments = pa.StructArray.from_arrays(
        [
            pa.array(names),
            *(
                pa.array(np.tile(np.arange(NUM_SEGMENTS, dtype=np.int32) * step, num_rows) + add, pa.int32())
                for step, add in (
                    (SEGMENT_TOKENS + 1, 0),
                    (0, SEGMENT_TOKENS + 1),
                    (0, 0),
                    (0, SEGMENT_CHARS),
                )
            ),
        ],
        ["doc_id", "first_token", "num_tokens", "char_start", "char_end"],
    )
    places = np.tile(np.arange(NUM_SEGMENTS, dtype=np.int32) * (SEGMENT_TOKENS + 1) + 1, num_rows)
    targets = pa.StructArray.from_arrays(
        [pa.array(places), pa.array(np.full(num_segments, SEGMENT_TOKENS, dtype=np.int32))],
        ["first_token", "num_tokens"],
    )
    tokens = np.random.default_rng(int(ids[0, 0, 0])).integers(0, 30_000, num_rows * num_tokens, np.int32)

    def in_lists(values: pa.Array, size: int) -> pa.ListArray:
        return pa.ListArray.from_arrays(np.arange(num_rows + 1, dtype=np.int32) * size, values)

    def repeat(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), num_rows)

    first = group.first_id + rows.start
    columns = {
        "sequence_id": pa.array(np.arange(first, first + num_rows)),
        "split": repeat("train", pa.string()),
        "source": repeat("web", pa.string()),
        "input_ids": in_lists(pa.array(tokens), num_tokens),
        "num_tokens": repeat(num_tokens, pa.int32()),
        "label": pa.nulls(num_rows, pa.int32()),
        "labels": pa.nulls(num_rows, pa.list_(pa.int32())),
        "targets": in_lists(targets, NUM_SEGMENTS),
        "num_targets": repeat(NUM_SEGMENTS * SEGMENT_TOKENS, pa.int32()),
        "num_bytes": repeat(NUM_SEGMENTS * SEGMENT_CHARS, pa.int32()),
        "num_cut_tokens": repeat(0, pa.int32()),
        "num_continued": repeat(0, pa.int32()),
        "segments": in_lists(segments, NUM_SEGMENTS),
        "doc_keys": in_lists(pa.array(make_doc_keys(names)), NUM_SEGMENTS),
    }
    return pa.RecordBatch.from_arrays(
        [columns[field.name].cast(field.type) for field in schema], schema=schema
    )


def write_table(path: str, groups: list[Group]) -> Pin:
    """The table, as the dataset stage would have written it."""
    session("benchmark")  # the JVM reads the columns
    schema = SEQUENCES.arrow_schema
    create_table(
        path,
        SEQUENCES.schema.json(),
        name=SEQUENCES.name,
        description=SEQUENCES.row,
        partition_by=SEQUENCES.partition_by,
        properties=PROPERTIES,
    )
    plan = ShardPlan(table=path, folder="rows", schema=schema, partition_by=SEQUENCES.partition_by)
    shards: list[Shard] = []
    for group in groups:
        files = ShardFiles(plan)
        for start in range(0, len(group.doc_ids), BATCH_ROWS):
            files.add(make_batch(group, slice(start, min(start + BATCH_ROWS, len(group.doc_ids))), schema))
        shards += files.close()
    log = open_log(path)
    assert log is not None, "it was created just now"
    num_rows = sum(len(group.doc_ids) for group in groups)
    record = {"table": "sequences", "digest": "0" * 32, "num_rows": num_rows, "fingerprint": "0" * 32}
    record |= {"facts": {}, "last_foreign": -1, "number": 1, "folder": "rows"}
    commit_shards(log, shards, replace=True, record=record)
    pinned = pin(path)
    assert pinned is not None, "it was committed just now"
    return pinned


def record_training(place: Path, sequences: Pin) -> str:
    """The id of a run of one pass over the rows, as a training records it."""
    connect(f"sqlite:///{place}/mlflow.db", str(place / "artifacts"))
    params = {"num_epochs": 1.0, "global_batch": GLOBAL_BATCH, "window_batches": 25, "seed": 0}
    documents = Pin(
        table="documents",
        path=str(place / "documents"),
        table_id="0",
        version=0,
        digest="0" * 32,
        num_rows=0,
        fingerprint="0",
        facts={},
    )
    with open_run(
        "trace",
        "0",
        folder=str(place / "run"),
        params={**params, "num_ranks": 8},
        config="",
        inputs=[sequences, documents],
    ) as run:
        return run.run_id


class Seconds(NamedTuple):
    """Of one process."""

    clock: float
    processor: float


def ask(place: Path, run: str, *words: str) -> Seconds:
    """Time of `distributary trace` in a new process. Raises RuntimeError if it fails or finds nothing."""
    overrides = [f"root={place}/root", f"tracking.uri=sqlite:///{place}/mlflow.db"]
    overrides += [f"tracking.artifacts={place}/artifacts", "recipe=trace"]
    command = [sys.executable, "-m", "jobs.shell.cli", "trace", *words, "--run", run, "--json", *overrides]
    environment = {**os.environ, "DISTRIBUTARY_CACHE": str(place / "cache")}
    started, used = time.monotonic(), _measure_children()
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    seconds = Seconds(time.monotonic() - started, _measure_children() - used)
    if answer.returncode or '"segments": [{' not in answer.stdout:
        raise RuntimeError(
            f"trace {' '.join(words)} ended with {answer.returncode}: {answer.stderr[-1_500:]}"
        )
    return seconds


def _measure_children() -> float:
    """Processor seconds of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(place: Path, num_rows: int) -> dict[str, Any]:
    groups = make_groups(num_rows)
    sequences = write_table(str(place / "sequences"), groups)
    session("benchmark").stop()
    run = record_training(place, sequences)
    random = np.random.default_rng(SEED + 1)
    steps = random.integers(1, num_rows // GLOBAL_BATCH + 1, RUNS + 1).tolist()
    documents = []
    for number in random.integers(0, len(groups), RUNS).tolist():
        ids = groups[number].doc_ids.reshape(-1, 16)
        documents.append(name_document(ids[random.integers(0, len(ids))]))
    del groups
    first = ask(place, run, "--step", str(steps[0]))
    samples = {
        "--step": [ask(place, run, "--step", str(step)) for step in steps[1:]],
        "--document": [ask(place, run, "--document", document) for document in documents],
    }
    table = Table("question", "median, s", "slowest, s", "processor, median, s")
    table.add_row("--step, the first one on a machine", f"{first.clock:.2f}", "", f"{first.processor:.2f}")
    medians = {name: Seconds(*map(median, zip(*each, strict=True))) for name, each in samples.items()}
    for name, each in medians.items():
        slowest = max(seconds.clock for seconds in samples[name])
        table.add_row(name, f"{each.clock:.2f}", f"{slowest:.2f}", f"{each.processor:.2f}")
    console.print(table)
    met = all(each.clock < BAR_SECONDS for each in medians.values())
    console.print(f"bar {'met' if met else 'not met'}: each median below {BAR_SECONDS:g} s", markup=False)
    return {
        "rows": num_rows,
        "first_step_seconds": first._asdict(),
        "seconds": {name: [seconds._asdict() for seconds in each] for name, each in samples.items()},
        "met": met,
    }


Rows = Annotated[int, typer.Option(min=GLOBAL_BATCH, help="Sequences of the table.")]
Output = Annotated[Path, typer.Option(dir_okay=False, help="JSON file with all samples and the machine.")]


def main(rows: Rows = 10_000_000, output: Output = RESULT) -> None:
    with tempfile.TemporaryDirectory() as place:
        run_benchmark(lambda: measure(Path(place), rows), output)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
