"""Capacity: what the stages cost for other amounts of text and on other clusters, from coefficients that
`benchmarks.growth` has measured (coefficients.json, with the machine and the date).

Writes the tables of docs/scale.md. Times are those of the data path: reading, encoding, packing, writing.
They assume that slots work alike and that storage and network deliver what the slots ask for; a column says
how much that is. Numbers of tasks, groups and files come from the code that cuts the work.
"""

import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import typer

GB, TB, MIB = 10**9, 10**12, 2**20
SIZES = {"1 GB": GB, "1 TB": TB, "100 TB": 100 * TB}
SLOTS = (2, 64, 1_024)
COEFFICIENTS = Path(__file__).with_name("coefficients.json")
GUIDE = Path(__file__).parent.parent / "docs" / "scale.md"
START, END = (
    "<!-- computed by benchmarks.capacity: start -->",
    "<!-- computed by benchmarks.capacity: end -->",
)
FILE_BYTES = 512 * MIB
"""Size of a source file, assumed."""
READ_BYTES = MIB
"""Bytes of one request of the readers of lines; `corpus.readers.lines`."""
DRIVER_BYTES_PER_FILE = 200
"""Manifest and slices: `corpus.manifest`."""
DRIVER_BYTES_PER_SHARD = 2_500
"""The result of a task and Delta's entry for its file, with statistics of 15 columns. Estimated."""
DRIVER_BYTES_PER_TASK = 1_500
"""What Spark keeps per finished task of a running stage, with its web pages off. Estimated."""
DRIVER_BYTES_PER_GROUP = 60
"""Counts of a group: `dataset.build`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coefficients:
    """Measured; rates are those of one slot."""

    document_bytes: float
    """Input per document."""
    tokens_per_byte: float
    corpus_bytes_per_second: float
    """Input: both readings and the writing."""
    corpus_shuffle_bytes_per_document: float
    documents_bytes_per_text_byte: float
    """Size of the table."""
    dataset_bytes_per_second: float
    dataset_shuffle_bytes_per_text_byte: float
    sequences_bytes_per_token: float
    """Size of the table."""
    copy_bytes_per_token: float
    """Arrays on the disk of each host that trains."""
    worker_bytes: float
    """Largest Python worker of corpus and dataset; each slot has one."""
    jvm_bytes: float
    """Objects alive in the JVM that was driver and executor of two slots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One stage on one amount of text."""

    seconds: float
    num_tasks: int
    """Of the largest Spark stage."""
    shuffle_bytes: float
    written_bytes: float
    requests: float
    """To the store, without retries."""
    driver_bytes: float
    """Beyond what an empty driver takes."""
    storage_bytes_per_second: float
    """Of all slots together."""


CostOf = Callable[[float, int, Coefficients], Cost]


def read_coefficients() -> Coefficients:
    return Coefficients(**json.loads(COEFFICIENTS.read_text(encoding="utf-8"))["coefficients"])


def cost_corpus(num_bytes: float, slots: int, known: Coefficients) -> Cost:
    """Two passes over the sources. Positions are shuffled, texts are not."""
    from pipelines.keys import RANGE_KEYS, choose_num_ranges

    documents, tasks = num_bytes / known.document_bytes, count_slices(num_bytes, slots)
    seconds = num_bytes / known.corpus_bytes_per_second / min(slots, tasks)
    written, shards = known.documents_bytes_per_text_byte * num_bytes, count_shards(num_bytes, tasks, known)
    key_reads = 2 * tasks * choose_num_ranges(int(documents), RANGE_KEYS)
    return Cost(
        seconds=seconds,
        num_tasks=tasks,
        shuffle_bytes=known.corpus_shuffle_bytes_per_document * documents,
        written_bytes=written,
        # Two readings, each with an opening per slice; shards; key files written, read (two requests for a
        # range) and deleted.
        requests=2 * (tasks + num_bytes / READ_BYTES) + shards + 2 * tasks + key_reads,
        driver_bytes=DRIVER_BYTES_PER_FILE * num_bytes / FILE_BYTES
        + DRIVER_BYTES_PER_SHARD * shards
        + DRIVER_BYTES_PER_TASK * tasks,
        storage_bytes_per_second=(2 * num_bytes + written) / seconds,
    )


def cost_dataset(num_bytes: float, slots: int, known: Coefficients) -> Cost:
    """One pass over the documents, one shuffle of their text, one write of tokens."""
    from pipelines.dataset.build import TASK_BYTES
    from pipelines.dataset.packing.rules import PackingRules

    group_bytes = PackingRules().group_bytes
    groups = max(1, round(num_bytes / group_bytes))
    # spark.sql.shuffle.partitions as this guide recommends it: four times the slots
    tasks = min(groups, max(4 * slots, -(-groups * group_bytes // TASK_BYTES)))
    seconds = num_bytes / known.dataset_bytes_per_second / min(slots, tasks)
    written = num_bytes * known.tokens_per_byte * known.sequences_bytes_per_token
    read = known.documents_bytes_per_text_byte * num_bytes
    shards = 2 * tasks  # train and validation
    return Cost(
        seconds=seconds,
        num_tasks=tasks,
        shuffle_bytes=known.dataset_shuffle_bytes_per_text_byte * num_bytes,
        written_bytes=written,
        requests=read / READ_BYTES + shards + 3 * tasks,
        driver_bytes=DRIVER_BYTES_PER_GROUP * groups
        + DRIVER_BYTES_PER_SHARD * shards
        + DRIVER_BYTES_PER_TASK * tasks,
        storage_bytes_per_second=(read + written) / seconds,
    )


def count_slices(num_bytes: float, slots: int) -> int:
    """As the corpus stage cuts files of FILE_BYTES."""
    from pipelines.corpus.manifest import Manifest
    from pipelines.corpus.readers.slices import choose_slice_bytes

    num_files = max(1, round(num_bytes / FILE_BYTES))
    files = pa.table({"size": pa.array([int(num_bytes / num_files)] * num_files, pa.int64())})
    size = choose_slice_bytes(Manifest(files=files, digest="", num_files={"": num_files}), slots)
    return max(1, round(num_bytes / size))


def count_shards(num_bytes: float, tasks: int, known: Coefficients) -> float:
    """Files of the documents table: one a task, more if it would become larger than SHARD_BYTES."""
    from pipelines.shards import SHARD_BYTES

    return max(tasks, num_bytes * known.documents_bytes_per_text_byte / SHARD_BYTES)


def format_bytes(num_bytes: float) -> str:
    for name, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.3g} {name}"
    return f"{num_bytes / 1e3:,.3g} kB"


def format_time(seconds: float) -> str:
    for name, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{round_number(seconds / size)} {name}"
    return f"{round_number(seconds)} s"


def round_number(number: float) -> str:
    """Three digits, never as a power of ten."""
    return f"{float(f'{number:.3g}'):,.10g}"


def make_stage_table(cost_of: CostOf, known: Coefficients) -> list[str]:
    head = "| text | slots | time | tasks | shuffled | written | requests | driver | storage MB/s |"
    lines = [head, "|" + "---|" * 9]
    for size, num_bytes in SIZES.items():
        for slots in SLOTS:
            cost = cost_of(num_bytes, slots, known)
            row = [size, f"{slots:,}", format_time(cost.seconds), f"{cost.num_tasks:,}"]
            row += [format_bytes(cost.shuffle_bytes), format_bytes(cost.written_bytes)]
            row += [round_number(cost.requests), format_bytes(cost.driver_bytes)]
            row += [round_number(cost.storage_bytes_per_second / 1e6)]
            lines.append(f"| {' | '.join(row)} |")
    return lines


def make_training_table(known: Coefficients) -> list[str]:
    lines = ["| text | tokens | sequences table | disk of each training host |", "|---|---|---|---|"]
    for size, num_bytes in SIZES.items():
        tokens = num_bytes * known.tokens_per_byte
        table, copies = tokens * known.sequences_bytes_per_token, tokens * known.copy_bytes_per_token
        billions = round_number(tokens / 1e9)
        lines.append(f"| {size} | {billions} billion | {format_bytes(table)} | {format_bytes(copies)} |")
    return lines


def make_coefficient_table(measured: dict) -> list[str]:
    cpus, at, num_bytes = measured["machine"]["cpus"], measured["machine"]["at"], measured["input_bytes"]
    lines = [f"Measured at {at} on {cpus} cores with up to {format_bytes(num_bytes)} of input.", ""]
    lines += [textwrap.fill(measured["note"], 110), ""] if "note" in measured else []
    lines += ["| coefficient | value |", "|---|---|"]
    return lines + [
        f"| {name.replace('_', ' ')} | {round_number(value)} |"
        for name, value in measured["coefficients"].items()
    ]


def make_tables(measured: dict) -> str:
    """The computed part of the guide, in Markdown."""
    known = Coefficients(**measured["coefficients"])
    parts = [
        "### corpus",
        "",
        *make_stage_table(cost_corpus, known),
        "",
        "### dataset",
        "",
        *make_stage_table(cost_dataset, known),
        "",
        "### finetune",
        "",
        *make_training_table(known),
        "",
        "### Coefficients",
        "",
        *make_coefficient_table(measured),
    ]
    return "\n".join(parts)


def fill_guide(guide: str, tables: str) -> str:
    """The guide with its computed part replaced. Raises ValueError if it has no place for it."""
    before, start, rest = guide.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the guide has no part between {START} and {END}")
    return f"{before}{START}\n{tables}\n{END}{after}"


def main() -> None:
    measured = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    filled = fill_guide(GUIDE.read_text(encoding="utf-8"), make_tables(measured))
    GUIDE.write_text(filled, encoding="utf-8")
    print(f"written {GUIDE}")


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
