"""What each stage costs for an amount of text and a number of slots, computed from coefficients that
`benchmarks.growth` has measured (coefficients.json).

Times are those of the data path: reading, encoding, packing, writing. They assume that slots work alike and
that storage and network deliver what the slots ask for. Numbers of tasks, groups, ranges and files come from
the code that cuts the work.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

MIB = 2**20
COEFFICIENTS = Path(__file__).with_name("coefficients.json")
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
DRIVER_BYTES_PER_GROUP = 100
"""Number of a group, twice: `dataset.layout`. Estimated."""
DRIVER_BYTES_PER_EDGE = 100
"""A pair of near duplicates that the driver takes: `neardup.rounds`."""
READINGS_OF_MEMBERS, READINGS_OF_SIGNATURES = 7, 2
"""In `neardup.find`, `neardup.stored` and `neardup.candidates`. Counted by reading the code."""
REQUESTS_PER_SHARD = 2
"""To read some columns of a shard: its footer, the columns. Estimated."""


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
    near_duplicates_bytes_per_second: float
    """Input: the whole corpus stage with near duplicates, four readings."""
    near_duplicates_shuffle_bytes_per_document: float
    near_duplicates_kept_bytes_per_document: float
    """Tables of signatures, similarities and evidence."""
    near_duplicates_held_bytes_per_document: float
    """Members and pairs: written to storage, and deleted at the end of the stage."""
    near_pairs_per_document: float
    """Pairs at min_jaccard: a property of the texts."""
    dataset_bytes_per_second: float
    dataset_shuffle_bytes_per_text_byte: float
    sequences_bytes_per_token: float
    """Size of the table."""
    copy_bytes_per_token: float
    """Arrays on the disk of each host that trains."""
    scoring_bytes_per_second: float
    """Input, without the time in the model."""
    scoring_shuffle_bytes_per_text_byte: float
    predictions_bytes_per_text_byte: float
    """Size of the table: it has the texts."""
    worker_bytes: float
    """Largest Python worker of corpus, near duplicates and dataset; each slot has one."""
    scoring_worker_bytes: float
    """Largest Python worker of scoring, with torch and a model of 1 MB."""
    jvm_bytes: float
    """Resident memory of the JVM that was driver and executor of two slots, with a heap of 1 GiB."""


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
    documents, tasks = num_bytes / known.document_bytes, count_slices(num_bytes, slots)
    seconds = num_bytes / known.corpus_bytes_per_second / min(slots, tasks)
    written, shards = known.documents_bytes_per_text_byte * num_bytes, count_shards(num_bytes, tasks, known)
    return Cost(
        seconds=seconds,
        num_tasks=tasks,
        shuffle_bytes=known.corpus_shuffle_bytes_per_document * documents,
        written_bytes=written,
        requests=2 * count_reads(num_bytes, tasks) + shards + count_key_requests(documents, tasks),
        driver_bytes=DRIVER_BYTES_PER_FILE * num_bytes / FILE_BYTES
        + DRIVER_BYTES_PER_SHARD * shards
        + DRIVER_BYTES_PER_TASK * tasks,
        storage_bytes_per_second=(2 * num_bytes + written) / seconds,
    )


def cost_near_duplicates(num_bytes: float, slots: int, known: Coefficients) -> Cost:
    """The whole corpus stage with a search: four passes over the sources, none of them in a shuffle.

    A first search: every text is signed. Beyond DRIVER_EDGES pairs, clusters take rounds on the cluster,
    which are not measured.
    """
    from pipelines.corpus.neardup.rounds import DRIVER_EDGES

    plain, documents = cost_corpus(num_bytes, slots, known), num_bytes / known.document_bytes
    tasks = plain.num_tasks
    seconds = num_bytes / known.near_duplicates_bytes_per_second / min(slots, tasks)
    per_document = (
        known.near_duplicates_kept_bytes_per_document + known.near_duplicates_held_bytes_per_document
    )
    written = plain.written_bytes + per_document * documents
    # Members and signatures are written by tasks over slices; pairs, similarities and evidence by tasks after
    # a shuffle: spark.sql.shuffle.partitions as the guide recommends it, four times the slots.
    shards = 2 * tasks + 3 * min(4 * slots, tasks)
    reads = REQUESTS_PER_SHARD * (READINGS_OF_MEMBERS + READINGS_OF_SIGNATURES) * tasks
    keys = 2 * count_key_requests(documents, tasks)
    edges = min(DRIVER_EDGES, known.near_pairs_per_document * documents)
    return Cost(
        seconds=seconds,
        num_tasks=tasks,
        shuffle_bytes=known.near_duplicates_shuffle_bytes_per_document * documents,
        written_bytes=written,
        requests=plain.requests + 2 * count_reads(num_bytes, tasks) + shards + reads + keys,
        driver_bytes=plain.driver_bytes + DRIVER_BYTES_PER_SHARD * shards + DRIVER_BYTES_PER_EDGE * edges,
        storage_bytes_per_second=(4 * num_bytes + written) / seconds,
    )


def cost_dataset(num_bytes: float, slots: int, known: Coefficients) -> Cost:
    """One pass over the documents, one shuffle of their text, one write of tokens."""
    from pipelines.dataset.layout import count_parts
    from pipelines.dataset.packing.rules import PackingRules

    # A task a group; a file of FILE_BYTES has groups of its own.
    files = max(1, round(num_bytes / FILE_BYTES))
    tasks = files * count_parts(round(num_bytes / files), PackingRules().group_bytes)
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
        driver_bytes=DRIVER_BYTES_PER_GROUP * tasks
        + DRIVER_BYTES_PER_SHARD * shards
        + DRIVER_BYTES_PER_TASK * tasks,
        storage_bytes_per_second=(read + written) / seconds,
    )


def cost_scoring(num_bytes: float, slots: int, known: Coefficients) -> Cost:
    """One pass over the documents, one shuffle of their text, one write; without the time in the model.

    A first scoring of all splits: no document has a prediction yet.
    """
    from pipelines.scoring.select import count_partitions

    documents = num_bytes / known.document_bytes
    tasks = count_partitions(int(documents), int(num_bytes))
    seconds = num_bytes / known.scoring_bytes_per_second / min(slots, tasks)
    read, written = (
        share * num_bytes
        for share in (known.documents_bytes_per_text_byte, known.predictions_bytes_per_text_byte)
    )
    shards = count_files(written, tasks)
    read_shards = count_shards(num_bytes, count_slices(num_bytes, slots), known)
    return Cost(
        seconds=seconds,
        num_tasks=tasks,
        shuffle_bytes=known.scoring_shuffle_bytes_per_text_byte * num_bytes,
        written_bytes=written,
        requests=count_reads(read, read_shards) + shards + count_key_requests(documents, tasks),
        driver_bytes=DRIVER_BYTES_PER_SHARD * shards + DRIVER_BYTES_PER_TASK * tasks,
        storage_bytes_per_second=(read + written) / seconds,
    )


def count_reads(num_bytes: float, num_files: float) -> float:
    """Requests of one pass: each file or slice is opened, then read."""
    return num_files + num_bytes / READ_BYTES


def count_key_requests(num_rows: float, tasks: int) -> float:
    """Key files of a table: written, read (two requests for a range) and deleted. Few keys of a task travel
    with its result."""
    from pipelines.keys import INLINE_KEYS, RANGE_KEYS, choose_num_ranges

    if num_rows <= INLINE_KEYS * tasks:
        return 0
    return 2 * tasks * (1 + choose_num_ranges(int(num_rows), RANGE_KEYS))


def count_slices(num_bytes: float, slots: int) -> int:
    """As the corpus stage cuts files of FILE_BYTES."""
    from pipelines.corpus.manifest import Manifest
    from pipelines.corpus.readers.slices import choose_slice_bytes

    num_files = max(1, round(num_bytes / FILE_BYTES))
    files = pa.table({"size": pa.array([int(num_bytes / num_files)] * num_files, pa.int64())})
    size = choose_slice_bytes(Manifest(files=files, digest="", num_files={"": num_files}), slots)
    return max(1, round(num_bytes / size))


def count_shards(num_bytes: float, tasks: int, known: Coefficients) -> float:
    """Files of the documents table."""
    return count_files(num_bytes * known.documents_bytes_per_text_byte, tasks)


def count_files(num_bytes: float, tasks: int) -> float:
    """Files of a table of this size: one a task, more if it would become larger than SHARD_BYTES."""
    from pipelines.shards import SHARD_BYTES

    return max(tasks, num_bytes / SHARD_BYTES)
