"""Capacity: what the stages cost for other amounts of text and other clusters, computed from measured
coefficients (`coefficients.json`, with where and when).

Prints the tables of docs/scale.md. Times are those of the data path: reading, encoding, packing, writing.
They assume that storage and network deliver what the slots ask for; column "storage MB/s" says how much.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import typer

GB, TB, MIB = 10**9, 10**12, 2**20
SIZES = {"1 GB": GB, "1 TB": TB, "100 TB": 100 * TB}
SLOTS = (2, 64, 1_024)
COEFFICIENTS = Path(__file__).with_name("coefficients.json")
TASK_BYTES = (4 * MIB, 128 * MIB)
"""Smallest and largest task of corpus and dataset."""
TASKS_PER_SLOT = 4
SHARD_BYTES = 256 * MIB
GROUP_BYTES = 16 * MIB
"""dataset.packing.group_bytes."""
SPARK_BYTES_PER_TASK = 1_500
"""What Spark's driver keeps per finished task of a running stage, with the UI off; an estimate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coefficients:
    """Measured on one slot, unless the name says otherwise."""

    document_bytes: float
    """Mean text per document."""
    tokens_per_byte: float
    corpus_bytes_per_second: float
    """Text, both readings and the writing."""
    corpus_shuffle_bytes_per_document: float
    corpus_cache_bytes_per_document: float
    """Positions, on executors."""
    driver_bytes_per_file: float
    documents_bytes_per_text_byte: float
    """Size of the table."""
    dataset_bytes_per_second: float
    dataset_shuffle_bytes_per_text_byte: float
    sequences_bytes_per_token: float
    """Size of the table."""
    copy_bytes_per_token: float
    """Arrays on the disk of each host that trains."""
    worker_bytes: float
    """Largest Python worker of corpus and dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One stage on one amount of text."""

    seconds: float
    num_tasks: int
    """Of the largest Spark stage."""
    shuffle_bytes: float
    written_bytes: float
    requests: float
    """To the store: opens and reads of slices, shards written; without retries."""
    driver_bytes: float
    storage_bytes_per_second: float


def read_coefficients() -> Coefficients:
    return Coefficients(**json.loads(COEFFICIENTS.read_text(encoding="utf-8"))["coefficients"])


def count_tasks(num_bytes: float, slots: int) -> int:
    """As `corpus.readers.slices.choose_slice_bytes` cuts."""
    size = min(max(num_bytes / (TASKS_PER_SLOT * slots), TASK_BYTES[0]), TASK_BYTES[1])
    return max(1, round(num_bytes / size))


def cost_corpus(num_bytes: float, slots: int, known: Coefficients, file_bytes: float = 512 * MIB) -> Cost:
    """Two passes over the sources; positions are shuffled, texts are not."""
    documents, tasks = num_bytes / known.document_bytes, count_tasks(num_bytes, slots)
    seconds = num_bytes / known.corpus_bytes_per_second / min(slots, tasks)
    written = known.documents_bytes_per_text_byte * num_bytes
    return Cost(
        seconds=seconds,
        num_tasks=tasks,
        shuffle_bytes=known.corpus_shuffle_bytes_per_document * documents,
        written_bytes=written,
        requests=2 * 2 * tasks + max(written / SHARD_BYTES, tasks),
        driver_bytes=known.driver_bytes_per_file * num_bytes / file_bytes + SPARK_BYTES_PER_TASK * tasks,
        storage_bytes_per_second=(2 * num_bytes + written) / seconds,
    )


def cost_dataset(num_bytes: float, slots: int, known: Coefficients) -> Cost:
    """One pass over documents, one shuffle of the text, one write of tokens."""
    tasks = max(count_tasks(num_bytes, slots), 1)
    seconds = num_bytes / known.dataset_bytes_per_second / min(slots, tasks)
    written = num_bytes * known.tokens_per_byte * known.sequences_bytes_per_token
    read = known.documents_bytes_per_text_byte * num_bytes
    groups = num_bytes / GROUP_BYTES
    return Cost(
        seconds=seconds,
        num_tasks=tasks,
        shuffle_bytes=known.dataset_shuffle_bytes_per_text_byte * num_bytes,
        written_bytes=written,
        requests=2 * max(read / SHARD_BYTES, tasks) + max(written / SHARD_BYTES, tasks),
        driver_bytes=100 * groups + SPARK_BYTES_PER_TASK * tasks,
        storage_bytes_per_second=(read + written) / seconds,
    )


def format_bytes(num_bytes: float) -> str:
    for name, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.3g} {name}"
    return f"{num_bytes / 1e3:,.3g} kB"


def format_time(seconds: float) -> str:
    for name, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {name}"
    return f"{seconds:,.3g} s"


def make_tables(known: Coefficients) -> str:
    """The tables in Markdown."""
    lines = []
    head = "| text | slots | time | tasks | shuffled | written | requests | driver's heap | storage MB/s |"
    for stage, cost_of in (("corpus", cost_corpus), ("dataset", cost_dataset)):
        lines += [f"### {stage}", "", head, "|" + "---|" * 9]
        for size, num_bytes in SIZES.items():
            for slots in SLOTS:
                cost = cost_of(num_bytes, slots, known)
                row = [size, f"{slots:,}", format_time(cost.seconds), f"{cost.num_tasks:,}"]
                row += [format_bytes(cost.shuffle_bytes), format_bytes(cost.written_bytes)]
                row += [f"{cost.requests:,.0f}", format_bytes(cost.driver_bytes)]
                row += [f"{cost.storage_bytes_per_second / 1e6:,.0f}"]
                lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    lines += [
        "### finetune",
        "",
        "| text | tokens | sequences table | disk per training host |",
        "|---|---|---|---|",
    ]
    for size, num_bytes in SIZES.items():
        tokens = num_bytes * known.tokens_per_byte
        sizes = (tokens * known.sequences_bytes_per_token, tokens * known.copy_bytes_per_token)
        lines.append(f"| {size} | {tokens:,.3g} | {format_bytes(sizes[0])} | {format_bytes(sizes[1])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    print(make_tables(read_coefficients()), end="")


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
