"""MinHash beside its peers: signatures per second of a core, and documents per second from files to tables.

Signatures: the texts of `benchmarks.signals`, 5-grams of words, 14 bands of 8 hashes, as datatrove has them.
Ours gives buckets; Daft's gives the 112 values, of words as they stand (case and marks are kept). Both are
counted per second of the processor, and per second of the clock with all processors.

End to end: two JSON Lines files are read, near duplicates are found and removed, and the rest is written:
ours with ids, exact similarities and evidence, as Delta tables; datatrove's four steps as JSON Lines. One
document in ten is a near duplicate. Counted is the work, not the start of Spark or of Python. How many
documents each removes is printed. About 7 s of ours are plans and commits, however few documents there are;
datatrove has no such part, so it gets fewer documents of the same kind.

Peers have environments of their own, which `python -m benchmarks.peers` makes; without them only ours is
measured. Rounds are in turn; the first one is printed but not counted. Exit status: 0, also if a bar is
missed; 2 if something failed.
"""

import json
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.measuring import run_benchmark
from benchmarks.peers import DAFT, DATATROVE, ask_peer, find_peer
from benchmarks.signals import cut_books
from jobs.shell.display import console

RESULT = Path(__file__).parent / "results" / "neardup.json"
MIN_SIGNATURES, MIN_RATIO = 4_000, 10
"""The bars: documents per second of a core, and end to end over datatrove's."""
PRESET, MIN_JACCARD, PLANTED = "fineweb", 0.8, 10
"""One document in PLANTED is a copy of another one with a few other words."""
_STEPS = {"computing": "signatures", "looking": "pairs", "comparing": "similarities", "writing": "evidence"}
"""First word of what the search reports -> step."""
_LINES = 60
_CHANGED_WORDS = 6
Samples = dict[str, list[float]]


def plant_copies(texts: list[str], num_documents: int) -> list[str]:
    """Documents of lines of the texts in random order, so that only the planted pairs are similar (Jaccard
    about 0.9)."""
    draw = random.Random(7)
    lines = sorted({line for text in texts for line in text.splitlines() if len(line) > 40})
    documents: list[str] = []
    for number in range(num_documents):
        if number % PLANTED == PLANTED - 1:
            words = documents[number - draw.randrange(1, PLANTED)].split(" ")
            for place in draw.sample(range(len(words)), _CHANGED_WORDS):
                words[place] = f"changed{number}"
            documents.append(" ".join(words))
        else:
            documents.append("\n".join(draw.sample(lines, _LINES)))
    return documents


def write_files(documents: list[str], folder: Path) -> None:
    """Two JSON Lines files."""
    folder.mkdir()
    for number in range(2):
        lines = (json.dumps({"text": text}) + "\n" for text in documents[number::2])
        (folder / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")


def sign_texts(texts: list[str]) -> float:
    """Seconds of the processor."""
    from pipelines.corpus.neardup.minhash import sign
    from pipelines.corpus.neardup.presets import PRESETS

    start = time.process_time()
    num_signed = sum(1 for _ in sign(texts, PRESETS[PRESET], 1))
    assert num_signed == len(texts)
    return time.process_time() - start


def measure_signatures(pool: ProcessPoolExecutor, texts: list[str], workers: int) -> tuple[float, float]:
    """Documents per second of a core, and of the clock with all processes."""
    start = time.perf_counter()
    seconds = list(pool.map(sign_texts, [texts[number::workers] for number in range(workers)]))
    return len(texts) / sum(seconds), len(texts) / (time.perf_counter() - start)


def remove_near_duplicates(spark: Any, folder: Path, lake: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """(seconds by step, facts) of a corpus with near duplicates removed, from files to tables."""
    from pipelines.corpus.build import open_corpus
    from pipelines.corpus.manifest import list_sources
    from pipelines.corpus.neardup.find import Search, write_evidence
    from pipelines.corpus.neardup.presets import NearDuplicates
    from pipelines.corpus.rules import Rules
    from pipelines.corpus.source import Source
    from pipelines.tables import DOCUMENTS, QUARANTINE

    seconds, current = defaultdict[str, float](float), ["reading"]
    began = [time.perf_counter()]

    def report(step: str) -> None:
        now = time.perf_counter()
        seconds[current[0]] += now - began[0]
        began[0], current[0] = now, _STEPS.get(step.removeprefix("near duplicates: ").partition(" ")[0], step)

    settings = NearDuplicates(enabled=True, preset=PRESET, min_jaccard=MIN_JACCARD)
    search = Search(
        settings=settings,
        signatures=str(lake / "signatures"),
        similarities=str(lake / "similarities"),
        evidence=str(lake / "evidence"),
        report=report,
    )
    sources = [Source(name="s", path=str(folder), format="jsonl", fields={"text": "text"})]
    with open_corpus(spark, sources, list_sources(sources), Rules(), search) as corpus:
        report("quarantine")
        broken = corpus.find_quarantine(str(lake / "quarantine"))
        QUARANTINE.overwrite(broken, str(lake / "quarantine"), fingerprint="f", facts={})
        write_evidence(corpus.near_duplicates, search, "f", corpus.facts["sources"])
        report("documents")
        with corpus.hold_documents(str(lake / "documents")) as documents:
            DOCUMENTS.overwrite(documents, str(lake / "documents"), fingerprint="f", facts=corpus.facts)
        report("end")
    return dict(seconds), corpus.facts


def run_rounds(
    folder: Path, sizes: tuple[int, int], rounds: int, peers: dict[str, Path | None]
) -> dict[str, Any]:
    """The medians of all rounds but the first."""
    from pipelines.spark import session

    workers, (num_documents, peer_documents) = os.cpu_count() or 1, sizes
    texts = cut_books(num_documents)
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    planted = plant_copies(texts, num_documents)
    write_files(planted, folder / "all")
    write_files(planted[:peer_documents], folder / "some")
    conf = {"spark.master": f"local[{workers}]", "spark.driver.memory": "3g"}
    conf |= {"spark.sql.shuffle.partitions": "4", "spark.databricks.delta.snapshotPartitions": "2"}
    samples, steps = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)

    def note(number: int, name: str, value: float) -> None:
        console.print(f"round {number}: {name} {value:,.0f} documents/s{'' if number else ' (not counted)'}")
        samples[name].append(value)

    with ProcessPoolExecutor(workers) as pool:
        measure_signatures(pool, texts[:8], workers)  # its processes start before Spark's threads
        spark = session("distributary benchmark", conf | {"spark.ui.showConsoleProgress": "false"})
        for number in range(rounds + 1):
            core, clock = measure_signatures(pool, texts, workers)
            note(number, "signatures per core", core)
            note(number, "signatures", clock)
            if peers["daft"]:
                found = ask_peer(peers["daft"], DAFT, folder / "texts.json", workers)
                note(number, "signatures per core, Daft", num_documents / found["cpu"])
                note(number, "signatures, Daft", num_documents / found["clock"])
            seconds, facts = remove_near_duplicates(spark, folder / "all", folder / f"lake{number}")
            note(number, "end to end", num_documents / sum(seconds.values()))
            for step, value in seconds.items():
                steps[step].append(value)
            if peers["datatrove"]:
                work = folder / f"datatrove{number}"
                found = ask_peer(peers["datatrove"], DATATROVE, folder / "some", work, workers)
                note(number, "end to end, datatrove", peer_documents / found["clock"])
    removed = facts["sources"]["s"]["near_duplicate"]
    counts = {"planted": num_documents // PLANTED, "removed": removed}
    if peers["datatrove"]:
        counts |= {"planted, datatrove": peer_documents // PLANTED, "removed, datatrove": found["removed"]}
    return summarize(samples, steps, counts)


def summarize(samples: Samples, steps: Samples, counts: dict[str, float]) -> dict[str, Any]:
    medians = {name: statistics.median(values[1:]) for name, values in samples.items()}
    taken = {name: round(statistics.median(values[1:]), 2) for name, values in steps.items()}
    result: dict[str, Any] = {
        "documents_per_second": medians,
        "seconds": taken,
        "samples": samples,
        "counts": counts,
    }
    result["met"] = {"signatures": medians["signatures per core"] >= MIN_SIGNATURES}
    if "end to end, datatrove" in medians:
        result["ratio"] = medians["end to end"] / medians["end to end, datatrove"]
        result["met"]["datatrove"] = result["ratio"] >= MIN_RATIO
        console.print(f"end to end: {result['ratio']:.1f} times datatrove, bar {MIN_RATIO}")
    if "signatures, Daft" in medians:
        names = ("signatures", "signatures per core")
        result["met"]["Daft"] = all(medians[name] >= medians[f"{name}, Daft"] for name in names)
    console.print(f"removed: {counts}; seconds: {taken}; bars met: {result['met']}", markup=False)
    return result


def main(
    datatrove: Annotated[Path | None, typer.Option(help="Its Python; see `benchmarks.peers`.")] = None,
    daft: Annotated[Path | None, typer.Option(help="Its Python.")] = None,
    num_documents: Annotated[int, typer.Option(help="Documents of 3.8 kB.")] = 52_632,
    peer_documents: Annotated[int, typer.Option(help="Of these, documents for datatrove.")] = 13_129,
    rounds: Annotated[int, typer.Option(help="Rounds that count.")] = 2,
) -> None:
    peers = {"datatrove": datatrove or find_peer("datatrove"), "daft": daft or find_peer("daft")}
    sizes = num_documents, peer_documents
    with tempfile.TemporaryDirectory() as folder:
        run_benchmark(
            lambda: run_rounds(Path(folder), sizes, rounds, peers), RESULT, num_documents=num_documents
        )


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
