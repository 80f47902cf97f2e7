"""Peers: their environments, and the programs that run there; each prints its result as one line of JSON.

`python -m benchmarks.peers` installs the environments into the cache folder, once: 2.5 GB. They are no part
of the product's own environment. Those that need torch see the packages of the product's environment behind
their own: the same torch for all, and 5 GB less each. Without peers, the benchmarks measure ours alone.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import typer

from pipelines.machine import cache_folder

PACKAGES = {
    "datatrove": ("datatrove[io,processing]==0.10.0", "spacy==3.8.18", "jieba==0.42.1"),
    "daft": ("daft==0.7.26",),
    "mosaicml": ("mosaicml-streaming==0.13.0", "torch==2.13.0"),
    "huggingface": ("datasets==5.2.0", "torch==2.13.0"),
    "lancedb": ("lancedb==0.40.0", "pylance==14.0.2", "torch==2.13.0"),
    "trl": ("trl==1.16.0", "torch==2.13.0"),
}
"""Of each peer, as pip takes them. With torch: that of the product, whose packages it sees behind its own."""


def find_peer(name: str) -> Path | None:
    """The Python of the peer; None if it, or one of its packages, is not installed."""
    folder = _find_folder(name)
    done = folder / "complete"
    is_complete = done.exists() and done.read_text(encoding="utf-8").split() == _describe(name)
    return folder / "bin" / "python" if is_complete else None


def install_peer(name: str) -> None:
    """Install the environment of a peer, or what it lacks. Raises CalledProcessError if pip fails."""
    folder = _find_folder(name)
    if find_peer(name) is not None:
        return
    print(f"installing {', '.join(PACKAGES[name])} into {folder}")
    venv.create(folder, with_pip=True)
    if _needs_torch(name):
        packages = folder / Path(*Path(sysconfig.get_path("purelib")).parts[-3:])
        (packages / "zz_product.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES[name]], check=True)
    (folder / "complete").write_text("\n".join(_describe(name)), encoding="utf-8")


def ask_peer(python: Path, script: str, *arguments: object) -> dict[str, float]:
    """What the script prints last, as JSON. Our own Python imports this checkout, a peer's does not."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python == Path(sys.executable):
        environment["PYTHONPATH"] = str(Path(__file__).absolute().parent.parent)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "peer.py")
        file.write_text(script, encoding="utf-8")
        command = [str(python), str(file), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, timeout=1_800, env=environment
        )
    if done.returncode:
        raise RuntimeError(f"{python} failed: {done.stderr[-2_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _describe(name: str) -> list[str]:
    """What a complete environment was made of."""
    return [*PACKAGES[name], *([sysconfig.get_path("purelib")] if _needs_torch(name) else [])]


def _needs_torch(name: str) -> bool:
    return any(package.startswith("torch==") for package in PACKAGES[name])


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
    """Install the environments of the peers into the cache folder, once: 2.5 GB."""
    for peer in PACKAGES:
        try:
            install_peer(peer)
        except subprocess.CalledProcessError as error:
            print(f"{peer} was not installed ({error}); the benchmarks measure without it", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
