"""Tokens per second of the dataset stage beside the bare libraries, in turn, on all cores.

encode: documents in Parquet to a written sequences table (Spark: shuffle, tokenizer, packing, Delta), over
`encode_batch` and `encode_batch_fast` of the tokenizers library, which only make tokens of texts in memory.
The library runs in a process of its own for each round, with a thread per core.

copy: the sequences table to the arrays that ranks map, over a bare Arrow scan of the token column alone.

Each round runs every one of them once. The first round is printed but not counted. Exit status: 0, also if
the bar is missed; 2 if something failed.
"""

import gzip
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tokenizers
import typer
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from rich.table import Table

from benchmarks.measuring import run_benchmark
from jobs.shell.display import console
from jobs.shell.progress import Progress, show_progress
from pipelines.dataset.build import build_sequences, count_splits
from pipelines.dataset.documents import summarize_documents
from pipelines.dataset.layout import lay_out_groups
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.reader import open_split
from pipelines.dataset.tokenizer import from_json, train_bpe, wrap_trained
from pipelines.pin import Pin
from pipelines.spark import session
from pipelines.tables import SEQUENCES

BOOKS = Path(__file__).parent.parent / "data" / "gutenberg_en"
RESULT = Path(__file__).parent / "results" / "dataset.json"
DOCUMENT_CHARS, VOCAB_SIZE, SEQUENCE_LENGTH = 3_800, 8_192, 1_024
MIN_RATIO = 0.8
"""The bar: our encoding over the faster of the library's two functions, by medians."""
OURS, BATCH, FAST, COPY, SCAN = (
    "dataset stage",
    "encode_batch",
    "encode_batch_fast",
    "open_split",
    "Arrow scan",
)
LIBRARY_BATCH = 1_000
"""Texts in one call of the library."""


def write_documents(folder: Path, num_documents: int) -> list[str]:
    """Documents of DOCUMENT_CHARS characters from all places of the books, as Parquet; their texts."""
    books = "".join(gzip.decompress(file.read_bytes()).decode() for file in sorted(BOOKS.rglob("*.gz")))
    step = 7_919  # a prime: the documents start at different places of the words
    places = [number * step % (len(books) - DOCUMENT_CHARS) for number in range(num_documents)]
    texts = [books[place : place + DOCUMENT_CHARS] for place in places]
    table = pa.table(
        {
            "doc_id": [f"{number * 2_654_435_761 % 2**32:032x}" for number in range(num_documents)],
            "text": texts,
            "source": ["books"] * num_documents,
            "file": ["all"] * num_documents,
            "split": ["train"] * num_documents,
            "drop_reason": pa.nulls(num_documents, pa.string()),
            "label": pa.nulls(num_documents, pa.string()),
            "num_bytes": pa.array([len(text.encode()) for text in texts], pa.int32()),
        }
    )
    num_files = 2 * (os.cpu_count() or 1)
    size = -(-num_documents // num_files)
    folder.mkdir()
    for number in range(num_files):
        pq.write_table(table.slice(number * size, size), folder / f"{number}.parquet")
    return texts


def encode_bare(function: str, tokenizer_json: str, texts: list[str], answer: Any) -> None:
    """Tokens per second of the library, sent to `answer`. In a process of its own: threads start with it."""
    tokenizer = from_json(tokenizer_json)
    encode = getattr(tokenizer, function)
    encode(texts[:LIBRARY_BATCH])
    started, num_tokens = time.perf_counter(), 0
    for first in range(0, len(texts), LIBRARY_BATCH):
        num_tokens += sum(len(encoding) for encoding in encode(texts[first : first + LIBRARY_BATCH]))
    answer.send(num_tokens / (time.perf_counter() - started))


def measure_bare(function: str, tokenizer_json: str, texts: list[str]) -> float:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    arguments = (function, tokenizer_json, texts, sender)
    process = multiprocessing.get_context("spawn").Process(target=encode_bare, args=arguments)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    process.start()
    sender.close()
    try:
        return float(receiver.recv())
    finally:
        process.join()


def measure_stage(
    spark: SparkSession, documents: Path, tokenizer_json: str, target: Path
) -> tuple[float, Pin]:
    """Tokens per second from documents to the written table, and its pin."""
    shutil.rmtree(target, ignore_errors=True)
    rules = PackingRules(method="concatenate", sequence_length=SEQUENCE_LENGTH)
    task = "language_modelling"
    started = time.perf_counter()
    rows = spark.read.parquet(str(documents))
    group_bytes = rules.group_bytes
    summary = summarize_documents(rows, max_bytes=1, group_bytes=group_bytes, with_labels=False)
    layout = lay_out_groups(summary.place_bytes, group_bytes)
    chosen = wrap_trained(from_json(tokenizer_json))
    built = build_sequences(rows, chosen, rules, task=task, labels=(), layout=layout)
    with SEQUENCES.hold(built.rows, str(target)) as held:
        counts = count_splits(held.rows)
        pin = SEQUENCES.overwrite(held, str(target), fingerprint="benchmark", facts={"splits": counts})
    seconds = time.perf_counter() - started
    return counts["train"]["tokens"] / seconds, pin


def measure_copy(pin: Pin, copies: Path) -> float:
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    started = time.perf_counter()
    reader = open_split(pin.path, table_id=pin.table_id, version=pin.version, split="train", copies=copies)
    return int(reader.lengths.sum()) / (time.perf_counter() - started)


def measure_scan(pin: Pin) -> float:
    started = time.perf_counter()
    batches = DeltaTable(pin.path).to_pyarrow_dataset().to_batches(columns=["input_ids"])
    num_tokens = sum(pc.sum(pc.list_value_length(batch["input_ids"])).as_py() or 0 for batch in batches)
    return num_tokens / (time.perf_counter() - started)


def run_rounds(place: Path, num_documents: int, pairs: int, work: Progress) -> dict[str, list[float]]:
    """Tokens per second by name, the warm-up first."""
    work.phase("making documents")
    texts = write_documents(place / "documents", num_documents)
    tokenizer_json = train_bpe(iter(texts[:2_000]), vocab_size=VOCAB_SIZE).to_str()
    work.phase("starting Spark")
    cores = os.cpu_count() or 1
    conf = {"spark.master": f"local[{cores},4]", "spark.sql.shuffle.partitions": str(2 * cores)}
    spark = session("distributary benchmark", {**conf, "spark.ui.showConsoleProgress": "false"})
    samples: dict[str, list[float]] = {}
    for number in range(pairs + 1):
        for name, value in _run_round(spark, place, tokenizer_json, texts):
            samples.setdefault(name, []).append(value)
            turn = f"round {number} of {pairs}" if number else "warm-up"
            work.print(f"{turn}: {name}: {value / 1e6:.2f} million tokens/s")
    return samples


def _run_round(
    spark: SparkSession, place: Path, tokenizer_json: str, texts: list[str]
) -> Iterator[tuple[str, float]]:
    for name in (BATCH, FAST):
        yield name, measure_bare(name, tokenizer_json, texts)
    ours, pin = measure_stage(spark, place / "documents", tokenizer_json, place / "sequences")
    yield OURS, ours
    yield COPY, measure_copy(pin, place / "copies")
    yield SCAN, measure_scan(pin)


def report(samples: dict[str, list[float]]) -> dict[str, Any]:
    """Print the table; its numbers for the file."""
    table = Table("million tokens/s", "min", "median", "max", "warm-up")
    medians = {name: statistics.median(values[1:]) for name, values in samples.items()}
    for name, (warm_up, *counted) in samples.items():
        numbers = (min(counted), medians[name], max(counted), warm_up)
        table.add_row(name, *[f"{number / 1e6:.2f}" for number in numbers])
    console.print(table)
    pairs = ((OURS, BATCH), (OURS, FAST), (COPY, SCAN))
    ratios = {f"{ours} / {theirs}": medians[ours] / medians[theirs] for ours, theirs in pairs}
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio:.2f}")
    reached = medians[OURS] / max(medians[BATCH], medians[FAST])
    met = reached >= MIN_RATIO
    console.print(
        f"bar {'met' if met else 'not met'}: {reached:.2f} of the bare library, at least {MIN_RATIO}"
    )
    return {"samples": samples, "ratios": ratios, "reached": reached, "min_ratio": MIN_RATIO, "met": met}


Pairs = Annotated[int, typer.Option(min=1, help="Counted rounds.")]
Documents = Annotated[int, typer.Option(min=2_000, help="Documents of 3.8 kB.")]
Output = Annotated[Path, typer.Option(dir_okay=False, help="JSON file with every sample and the machine.")]


def main(pairs: Pairs = 3, documents: Documents = 12_000, output: Output = RESULT) -> None:
    def measure() -> dict[str, Any]:
        with show_progress("dataset") as work, tempfile.TemporaryDirectory() as place:
            samples = run_rounds(Path(place), documents, pairs, work)
        return report(samples)

    run_benchmark(measure, output, tokenizers=tokenizers.__version__, documents=documents)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
