"""Peers: their environments, and the programs that run there; each prints its result as one line of JSON.

`python -m benchmarks.peers` installs the environments into the cache folder, once: 1 GB. They are no part of
the product's own environment. Without them, the benchmarks measure ours alone.
"""

import subprocess
import sys
import venv
from pathlib import Path

import typer

from pipelines.machine import cache_folder

PACKAGES = {
    "datatrove": ("datatrove[io,processing]==0.10.0", "spacy==3.8.18", "jieba==0.42.1"),
    "daft": ("daft==0.7.26",),
}
"""Of each peer, as pip takes them."""


def find_peer(name: str) -> Path | None:
    """The Python of the peer; None if it, or one of its packages, is not installed."""
    folder = _find_folder(name)
    done = folder / "complete"
    is_complete = done.exists() and done.read_text(encoding="utf-8").split() == [*PACKAGES[name]]
    return folder / "bin" / "python" if is_complete else None


def install_peer(name: str) -> None:
    """Install the environment of a peer, or what it lacks. Raises CalledProcessError if pip fails."""
    folder = _find_folder(name)
    if find_peer(name) is not None:
        return
    print(f"installing {', '.join(PACKAGES[name])} into {folder}")
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES[name]], check=True)
    (folder / "complete").write_text("\n".join(PACKAGES[name]), encoding="utf-8")


def _find_folder(name: str) -> Path:
    version = PACKAGES[name][0].rpartition("==")[2]
    return cache_folder() / "peers" / f"{name}-{version}"


DAFT = """
import json, os, sys, time
import daft
texts, workers = json.load(open(sys.argv[1])), int(sys.argv[2])
rows = daft.from_pydict({"text": texts}).into_partitions(workers).collect()

def sign():
    before, start = os.times(), time.perf_counter()
    signed = rows.select(rows["text"].minhash(num_hashes=112, ngram_size=5, seed=1)).collect()
    after = os.times()
    assert len(signed) == len(texts)
    return {"clock": time.perf_counter() - start, "cpu": sum(after[:2]) - sum(before[:2])}

sign()
print(json.dumps(sign()))
"""
"""Arguments: texts as JSON, processors. The first of two passes is not counted."""

DATATROVE = """
import glob, gzip, json, sys, time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

def run(tasks, *steps):
    LocalPipelineExecutor(
        pipeline=list(steps), tasks=tasks, workers=min(workers, tasks), start_method="fork",
        logging_dir=f"{work}/logs/{type(steps[-1]).__name__}").run()

if __name__ == "__main__":
    source, work, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    start = time.perf_counter()
    run(2, JsonlReader(source), MinhashDedupSignature(f"{work}/signatures", config))
    run(14, MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config))
    run(1, MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config))
    run(2, JsonlReader(source), MinhashDedupFilter(f"{work}/remove"), JsonlWriter(f"{work}/kept"))
    clock = time.perf_counter() - start
    read = sum(1 for file in glob.glob(f"{source}/*") for _ in open(file))
    kept = sum(1 for file in glob.glob(f"{work}/kept/*") for _ in gzip.open(file))
    print(json.dumps({"clock": clock, "removed": read - kept}))
"""
"""Arguments: folder of JSON Lines, folder to work in, processes. All options are datatrove's own but fork,
with which its processes start sooner."""


def main() -> None:
    """Install the environments of the peers into the cache folder, once: 1 GB."""
    for peer in PACKAGES:
        try:
            install_peer(peer)
        except subprocess.CalledProcessError as error:
            print(f"{peer} was not installed ({error}); the benchmarks measure without it", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
