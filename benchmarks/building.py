"""Tokens per second and core of the dataset stage beside datatrove's tokenise-and-write path.

The same Parquet files of documents and the same tokenizer (byte-level BPE). Ours: the dataset stage, from
documents to a written sequences table: groups, tokenizer with the characters of each token, packing, checks,
Delta (Spark, as many threads as cores). datatrove: ParquetReader and DocumentTokenizer with their defaults
but fork, as many processes as cores: tokens of documents in a shuffled file, without characters and packing.
Its clock starts when its pipeline is loaded, ours when Spark has started.

Rounds are in turn; the first one is printed but not counted. Exit status: 0, also if the bar is missed; 2 if
something failed.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.dataset import measure_stage, write_documents
from benchmarks.measuring import run_benchmark
from benchmarks.peers import ask_peer, find_peer
from jobs.shell.display import console

RESULT = Path(__file__).parent / "results" / "building.json"
MIN_RATIO = 3.0
"""The bar: our tokens/s and core over datatrove's."""
DATATROVE = """
import glob, json, os, sys, time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer

if __name__ == "__main__":
    documents, tokenizer, work, workers = sys.argv[1:4] + [int(sys.argv[4])]
    steps = [
        ParquetReader(documents, text_key="text", id_key="doc_id"),
        DocumentTokenizer(work + "/tokens", tokenizer),
    ]
    begun = time.perf_counter()
    LocalPipelineExecutor(
        steps, tasks=workers, workers=workers, start_method="fork", logging_dir=work + "/logs"
    ).run()
    seconds = time.perf_counter() - begun
    tokens = sum(os.path.getsize(file) for file in glob.glob(work + "/tokens/*.ds")) // 2
    print(json.dumps({"seconds": seconds, "tokens": tokens}))
"""
"""Arguments: folder of Parquet files, tokenizer.json, folder to work in, processes. Tokens have two bytes."""


def run_rounds(place: Path, num_documents: int, rounds: int) -> dict[str, Any]:
    """Tokens per second and core of each round, medians and the ratio."""
    from pipelines.dataset.tokenizer import train_bpe
    from pipelines.spark import session

    cores, datatrove = os.cpu_count() or 1, find_peer("datatrove")
    texts = write_documents(place / "documents", num_documents)
    tokenizer_json = train_bpe(iter(texts[:2_000]), vocab_size=8_192).to_str()
    (place / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    samples: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        conf = {"spark.master": f"local[{cores},4]", "spark.sql.shuffle.partitions": str(2 * cores)}
        spark = session("distributary benchmark", {**conf, "spark.ui.showConsoleProgress": "false"})
        ours, _ = measure_stage(spark, place / "documents", tokenizer_json, place / "sequences")
        samples.setdefault("ours", []).append(ours / cores)
        if datatrove is not None:
            work = place / f"datatrove{number}"
            found = ask_peer(datatrove, DATATROVE, place / "documents", place / "tokenizer.json", work, cores)
            samples.setdefault("datatrove", []).append(found["tokens"] / found["seconds"] / cores)
        for name, values in samples.items():
            turn = f"round {number} of {rounds}" if number else "warm-up"
            console.print(f"{turn}: {name}: {values[-1] / 1e6:.2f} million tokens/s and core")
    medians = {name: statistics.median(values[1:]) for name, values in samples.items()}
    result: dict[str, Any] = {"tokens_per_second_and_core": medians, "samples": samples}
    if datatrove is not None:
        result["ratio"] = medians["ours"] / medians["datatrove"]
        result["met"] = result["ratio"] >= MIN_RATIO
        met = "met" if result["met"] else "not met"
        console.print(f"ours over datatrove: {result['ratio']:.2f}, bar {MIN_RATIO:g}: {met}")
    return result


Rounds = Annotated[int, typer.Option(min=1, help="Counted rounds.")]
Documents = Annotated[int, typer.Option(min=2_000, help="Documents of 3.8 kB.")]
Output = Annotated[Path, typer.Option(dir_okay=False, help="JSON file with every sample and the machine.")]


def main(rounds: Rounds = 3, documents: Documents = 24_000, output: Output = RESULT) -> None:
    with tempfile.TemporaryDirectory() as place:
        run_benchmark(lambda: run_rounds(Path(place), documents, rounds), output, documents=documents)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
