"""What one more file costs: a run after a file of 1 % was added, against a full run over all files.

One process starts Spark, runs the stage and an increment on a small input (so that code is loaded and
compiled), then the stage on 100 files, on these and one more (the increment), and on all 101 into new tables.
Counted is a whole run of the stage, plan and commits too, but not the start of Spark. The digests of
documents must be equal.

One document in fifty is a copy of a text of the first file. A copy that survives instead of an earlier one
changes labels in all shards that have the text, and these are written again: here most of them. Without such
a copy, the cost of an increment does not depend on the texts that are there, only on their number.

The increment has a part that does not depend on the corpus (jobs, commits), so its share falls with the size.
Exit status: 0, also if the bar is missed; 2 if something failed or digests differ.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.growth import _CONF, write_documents
from benchmarks.measuring import run_benchmark
from jobs.shell.display import console

NUM_FILES = 100
MAX_FRACTION = 0.05
RESULT = Path(__file__).parent / "results" / "increment.json"


def run_corpus(documents: Path, root: Path) -> tuple[float, str, str]:
    """(seconds, reason, digest of documents) of a run of the stage on the files of a folder."""
    from jobs import corpus
    from jobs.shell import settings as configuration
    from pipelines.pin import pin

    source = f"{{name: s, path: {documents}, format: jsonl, fields: {{text: text}}}}"
    conf = {name: value for name, value in _CONF.items() if not name.startswith("spark.eventLog")}
    settings = configuration.load(
        overrides=[
            f"root={root}",
            f"corpus.sources=[{source}]",
            "spark={" + ", ".join(f'{key}: "{value}"' for key, value in conf.items()) + "}",
        ]
    )
    config = settings.section("corpus", corpus.Config)
    began = time.monotonic()
    outcome = corpus.main(config)
    seconds, pinned = time.monotonic() - began, pin(config.documents)
    assert outcome.ran
    assert pinned is not None
    return seconds, outcome.why, pinned.digest


def measure(megabytes: float) -> dict[str, Any]:
    """Seconds of each run, and the share. Raises RuntimeError if the tables differ."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_documents(folder / "all", NUM_FILES + 1, megabytes / NUM_FILES)
        write_documents(folder / "small", 2, 0.5)
        (folder / "raw").mkdir()
        (folder / "few").mkdir()
        for file in sorted((folder / "small").iterdir()):  # a full run, and an increment
            shutil.move(file, folder / "few" / file.name)
            run_corpus(folder / "few", folder / "warm")
        *first, last = sorted((folder / "all").iterdir())
        for file in first:
            shutil.move(file, folder / "raw" / file.name)
        before, _, _ = run_corpus(folder / "raw", folder / "grown")
        shutil.move(last, folder / "raw" / last.name)
        increment, why, grown = run_corpus(folder / "raw", folder / "grown")
        full, _, expected = run_corpus(folder / "raw", folder / "full")
    if grown != expected or not why.startswith("1 new file since"):
        raise RuntimeError(f"the increment ({why}) gave documents {grown}, a full run {expected}")
    result = {
        "seconds": {"100 files": before, "one more": increment, "101 files": full},
        "fraction": increment / full,
        "bar": MAX_FRACTION,
    }
    console.print_json(data=result)
    return result


Megabytes = Annotated[float, typer.Option(help="MB of the 100 files together.")]


def main(megabytes: Megabytes = 400.0) -> None:
    """Measure the run after one file was added; see the module."""
    run_benchmark(lambda: measure(megabytes), RESULT, megabytes=megabytes)


if __name__ == "__main__":
    typer.run(main)
