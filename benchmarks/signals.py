"""Documents per second of the preset chain beside datatrove's filters: same texts, same number of processes.

Chain: Gopher repetition, Gopher quality, C4, FineWeb, as datatrove counts them. Ours computes every signal of
every text; datatrove's stops at the first filter that drops a text. Without datatrove's environment
(`python -m benchmarks.peers` makes it) only ours is measured.

Each round runs both in turn; the first round is printed but not counted. Exit status: 0, also if the bar is
missed.
"""

import gzip
import json
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.peers import find_peer
from pipelines.corpus.rules import Rules
from pipelines.corpus.signals.table import compute_signals

BOOKS = Path(__file__).parent.parent / "data" / "gutenberg_en"
RESULT = Path(__file__).parent / "results" / "signals.json"
DOCUMENT_CHARS = 3_800
MIN_RATIO = 15
"""The bar: our documents per second over datatrove's, by medians."""
CHAIN = ("gopher_repetition@datatrove", "gopher_quality@datatrove", "c4@datatrove", "fineweb")
_PEER = """
import json, sys, time
from multiprocessing import get_context
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter)
texts, workers = json.load(open(sys.argv[1])), int(sys.argv[2])
chain = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter()]

def check(text):
    document = Document(text=text, id="")
    return all(each.filter(document) is True for each in chain)

if __name__ == "__main__":
    with get_context("fork").Pool(workers) as pool:
        pool.map(check, texts[:32], 8)
        start = time.perf_counter()
        pool.map(check, texts, 64)
        print(time.perf_counter() - start)
"""


def cut_books(num_documents: int) -> list[str]:
    """Pieces of DOCUMENT_CHARS characters from all places of the books."""
    books = "".join(gzip.decompress(file.read_bytes()).decode() for file in sorted(BOOKS.rglob("*.gz")))
    step = 7_919  # a prime: the documents start at different places of the words
    places = [number * step % (len(books) - DOCUMENT_CHARS) for number in range(num_documents)]
    return [books[place : place + DOCUMENT_CHARS].strip() for place in places]


def measure_ours(pool: ProcessPoolExecutor, texts: list[str]) -> float:
    """Seconds for all texts, in pieces as large as a task of Spark measures at once."""
    signals = Rules(presets=CHAIN).signals
    pieces = [texts[first : first + 256] for first in range(0, len(texts), 256)]
    start = time.perf_counter()
    list(pool.map(compute_signals, pieces, [signals] * len(pieces)))
    return time.perf_counter() - start


def measure_peer(python: Path, texts: list[str], num_workers: int) -> float:
    """Seconds of datatrove for all texts, without its start."""
    with tempfile.TemporaryDirectory() as folder:
        file, script = Path(folder, "texts.json"), Path(folder, "peer.py")
        file.write_text(json.dumps(texts), encoding="utf-8")
        script.write_text(_PEER, encoding="utf-8")
        done = subprocess.run(
            [python, script, file, str(num_workers)], capture_output=True, text=True, check=True, timeout=1800
        )
    return float(done.stdout.split()[-1])


def main(
    datatrove: Annotated[Path | None, typer.Option(help="Its Python; see `benchmarks.peers`.")] = None,
    num_documents: Annotated[int, typer.Option(help="Documents of 3.8 kB for ours.")] = 13_129,
    peer_documents: Annotated[int, typer.Option(help="Of these, documents for datatrove.")] = 1_500,
    rounds: Annotated[int, typer.Option(help="Rounds that count.")] = 3,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    datatrove = datatrove or find_peer("datatrove")
    texts = cut_books(num_documents)
    ours, peer = [], []
    with ProcessPoolExecutor(workers) as pool:
        measure_ours(pool, texts[:2_000])  # imports, tables
        for number in range(rounds + 1):
            ours.append(len(texts) / measure_ours(pool, texts))
            line = f"round {number}: ours {ours[-1]:,.0f} documents/s"
            if datatrove:
                peer.append(peer_documents / measure_peer(datatrove, texts[:peer_documents], workers))
                line += f", datatrove {peer[-1]:,.0f}"
            print(line + (" (not counted)" if number == 0 else ""))
    result = {
        "documents_per_second": statistics.median(ours[1:]),
        "workers": workers,
        "chars": DOCUMENT_CHARS,
    }
    if datatrove:
        result["datatrove"] = statistics.median(peer[1:])
        result["ratio"] = result["documents_per_second"] / result["datatrove"]
        print(f"ratio {result['ratio']:.1f}, bar {MIN_RATIO}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
