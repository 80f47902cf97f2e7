"""Tokens per second of the reader beside its peers: 50,000 sequences of 1,024 tokens, shuffled, batches of 8.

The dataset stage makes the sequences of books (Spark), so the files are those that a user has. Each
reader runs in a fresh process with one main process and no workers, and goes through one epoch, in turn:

- ours, ids: ids as tensors, which is what the peers give; the bars are about these;
- ours, batches: batches as a training takes them (ids, mask, targets, positions and segments);
- ours, thread: the same, made ahead by the thread of a training;
- Arrow: a bare decode of the token column of the same Parquet files, on all cores, not shuffled;
- MosaicML Streaming and LanceDB: their StreamingDataset and StreamingDataLoader;
- Hugging Face datasets: with_format("torch").shuffle(), the better of `iter` and a DataLoader.

Counted are tokens per second by the clock, and per second of the processor, which other programs on the
machine disturb less. Files lie in the page cache. Ours copies the split once per machine, at the rate that is
printed first. Last, what a process waits for its first batch after a restart, at several places of an
epoch (opening the copy, drawing the order, the batch; not the imports of Python).

The first round is printed but not counted. Exit status: 0, also if a bar is missed; 2 if something failed.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
import typer
from deltalake import DeltaTable

from benchmarks.dataset import measure_copy, measure_stage, write_documents
from benchmarks.measuring import run_benchmark
from benchmarks.peers import ask_peer, find_peer
from benchmarks.reader_scripts import ARROW, HUGGINGFACE, LANCEDB, MOSAICML, OURS
from jobs.shell.display import console

RESULT = Path(__file__).parent / "results" / "reader.json"
LENGTH, DOCUMENTS_PER_SEQUENCE = 1_024, 1.02
"""A document has about 1,010 tokens."""
BATCH, WARM_UP = 8, 50
"""Sequences of a batch; batches that a reader gives before those that count."""
BARS = {"mosaicml": 10.0, "huggingface": 2.0, "Arrow": 0.5}
"""Least tokens/s of ours over theirs, by the clock."""
MAX_RESTART_SECONDS, RESTARTS = 1.0, (0.0, 0.1, 0.5, 0.9, 0.999)
OUR_IDS = "ours, ids"
KINDS = ("seconds", "cpu")
Samples = dict[str, list[float]]


def make_sequences(place: Path, num_sequences: int) -> dict[str, Any]:
    """Write the table, the pin and, for the peers, tokens.npy. Facts of them."""
    from pipelines.dataset.tokenizer import train_bpe
    from pipelines.spark import session

    num_documents = int(num_sequences * DOCUMENTS_PER_SEQUENCE)
    texts = write_documents(place / "documents", num_documents)
    tokenizer_json = train_bpe(iter(texts[:2_000]), vocab_size=8_192).to_str()
    cores = os.cpu_count() or 1
    conf = {"spark.master": f"local[{cores},4]", "spark.sql.shuffle.partitions": str(2 * cores)}
    spark = session("distributary benchmark", {**conf, "spark.ui.showConsoleProgress": "false"})
    try:
        _, pin = measure_stage(spark, place / "documents", tokenizer_json, place / "sequences")
    finally:
        spark.stop()  # no thread of it may disturb the measurements
    pinned = {"path": pin.path, "table_id": pin.table_id, "version": pin.version}
    (place / "pin.json").write_text(json.dumps(pinned), encoding="utf-8")
    copied = measure_copy(pin, place / "copies")
    write_tokens(pin.path, place / "tokens.npy")
    tokens = np.load(place / "tokens.npy", mmap_mode="r")
    counts = pin.facts["splits"]["train"]
    return {
        "sequences": counts["sequences"],
        "tokens": counts["tokens"],
        "peer_tokens": tokens.size,
        "copy": copied,
    }


def write_tokens(table: str, file: Path) -> None:
    """(num_rows, LENGTH) int32: full rows of the table, all but a few."""
    files = DeltaTable(table).to_pyarrow_dataset()
    full = files.to_table(columns=["input_ids"], filter=pc.field("num_tokens") == LENGTH)
    np.save(file, full["input_ids"].combine_chunks().flatten().to_numpy().reshape(-1, LENGTH))


def list_readers() -> dict[str, tuple[Path, str, tuple[object, ...]]]:
    """Name -> Python, script and its last arguments, of all that are installed."""
    own = Path(sys.executable)
    found: dict[str, tuple[Path | None, str, tuple[object, ...]]] = {
        OUR_IDS: (own, OURS, ("ids", 0)),
        "ours, batches": (own, OURS, ("batches", 0)),
        "ours, thread": (own, OURS, ("thread", 0)),
        "Arrow": (own, ARROW, ()),
        "mosaicml": (find_peer("mosaicml"), MOSAICML, ()),
        "huggingface, iter": (find_peer("huggingface"), HUGGINGFACE, ("iter",)),
        "huggingface, loader": (find_peer("huggingface"), HUGGINGFACE, ("loader",)),
        "lancedb": (find_peer("lancedb"), LANCEDB, ()),
    }
    return {name: (python, *rest) for name, (python, *rest) in found.items() if python}  # type: ignore[misc]


def require_tokens(name: str, found: int, facts: dict[str, Any]) -> None:
    """Raises RuntimeError if a reader did not give one epoch. Ours and Arrow read every sequence; peers the
    full ones, without the batches before those that count, and their last batch may be left out or filled up.
    """
    is_peer = not name.startswith(("ours", "Arrow"))
    warm_up, slack = (WARM_UP * BATCH * LENGTH, BATCH * LENGTH) if is_peer else (0, 0)
    expected = facts["peer_tokens" if is_peer else "tokens"] - warm_up
    if abs(found - expected) > slack:
        raise RuntimeError(f"{name} gave {found:,} tokens, and an epoch has {expected:,}")


def run_rounds(place: Path, num_sequences: int, rounds: int) -> dict[str, Any]:
    facts = make_sequences(place, num_sequences)
    console.print(f"{facts['sequences']:,} sequences; copied at {facts['copy'] / 1e6:.1f} million tokens/s")
    samples: dict[str, Samples] = {kind: {} for kind in KINDS}
    for number in range(rounds + 1):
        for name, (python, script, more) in list_readers().items():
            found = ask_peer(python, script, place, number, *more)
            require_tokens(name, int(found["tokens"]), facts)
            for kind in KINDS:
                samples[kind].setdefault(name, []).append(found["tokens"] / found[kind])
            turn = f"round {number} of {rounds}" if number else "warm-up"
            clock, cpu = (samples[kind][name][-1] / 1e6 for kind in KINDS)
            console.print(f"{turn}: {name}: {clock:.1f} million tokens/s, {cpu:.1f} of the processor")
    restarts = {
        str(share): ask_peer(Path(sys.executable), OURS, place, 1, "restart", share)["seconds"]
        for share in RESTARTS
    }
    return summarize(samples, restarts, facts)


def summarize(
    samples: dict[str, Samples], restarts: dict[str, float], facts: dict[str, Any]
) -> dict[str, Any]:
    medians = {kind: take_medians(samples[kind]) for kind in KINDS}
    ratios = {
        kind: {name: found[OUR_IDS] / value for name, value in found.items() if name != OUR_IDS}
        for kind, found in medians.items()
    }
    met = {name: ratios["seconds"][name] >= bar for name, bar in BARS.items() if name in ratios["seconds"]}
    met["restart"] = max(restarts.values()) < MAX_RESTART_SECONDS
    for name, ratio in ratios["seconds"].items():
        bar = f"; bar {BARS[name]:g}: {'met' if met[name] else 'not met'}" if name in met else ""
        console.print(f"{OUR_IDS} over {name}: {ratio:.2f}, processor {ratios['cpu'][name]:.2f}{bar}")
    console.print(f"seconds to the first batch after a restart, by share of the epoch: {restarts}")
    return {
        "tokens_per_second": medians,
        "ratios": ratios,
        "restart_seconds": restarts,
        "facts": facts,
        "samples": samples,
        "met": met,
    }


def take_medians(samples: Samples) -> dict[str, float]:
    """Tokens/s of each reader, of Hugging Face its better way; the first round is not counted."""
    medians = {name: statistics.median(values[1:]) for name, values in samples.items()}
    ways = [medians.pop(name) for name in list(medians) if name.startswith("huggingface")]
    return {**medians, **({"huggingface": max(ways)} if ways else {})}


Rounds = Annotated[int, typer.Option(min=1, help="Counted rounds.")]
Sequences = Annotated[int, typer.Option(min=1_000, help="Sequences of 1,024 tokens, about.")]
Output = Annotated[Path, typer.Option(dir_okay=False, help="JSON file with every sample and the machine.")]


def main(rounds: Rounds = 3, sequences: Sequences = 50_000, output: Output = RESULT) -> None:
    with tempfile.TemporaryDirectory() as place:
        run_benchmark(lambda: run_rounds(Path(place), sequences, rounds), output)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
