"""What one more file costs: a run after a file of 1 % was added, against a full run over all files.

Three corpora, each measured by itself:

- web: texts of books, the rules of the recipe web_english (languages, Gopher, C4, FineWeb), personal data
  replaced, near duplicates removed. One text in fifty is an exact or near copy of another one of its file.
- plain: the same texts, without rules, cleaning and near duplicates.
- copies: texts of random words, as plain. One in fifty is a copy of a text of the first file. A copy that
  survives instead of an earlier one changes labels in all shards that have the text, and these are written
  again: here most of them.

One process starts Spark, runs the stage and an increment on a small input (so that code is loaded and
compiled), then the stage on 100 files, on these and one more (the increment), and on all 101 into new tables.
Counted is a whole run of the stage, plan and commits too, but not the start of Spark. The digests of all
tables must be equal.

The increment has a part that does not depend on the corpus (jobs, commits), so its share falls with the size.
Exit status: 0, also if the bar is missed; 2 if something failed or digests differ.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from benchmarks.books import write_books
from benchmarks.growth import write_documents
from benchmarks.measuring import run_benchmark
from benchmarks.stages import CONF
from jobs.shell.display import console

NUM_FILES = 100
MAX_FRACTION = 0.05
RESULTS = Path(__file__).parent / "results"
Case = Literal["web", "plain", "copies"]
WRITERS: dict[Case, Callable[[Path, int, float], None]] = {
    "web": write_books,
    "plain": write_books,
    "copies": write_documents,
}
_WEB = (
    "corpus.rules.languages=[en]",
    "corpus.rules.presets=[gopher_repetition@datatrove, gopher_quality@datatrove, c4@fineweb, fineweb]",
    "corpus.near_duplicates.enabled=true",
    "corpus.near_duplicates.preset=fineweb",
)
_CLEANING = "cleaning: {mojibake: true, control_characters: true, white_space: true, pii: [email, ip, phone]}"


def run_corpus(case: Case, documents: Path, root: Path) -> tuple[float, str, dict[str, str]]:
    """(seconds, reason, digest of each table) of a run of the stage on the files of a folder."""
    from jobs import corpus
    from jobs.shell import settings as configuration
    from pipelines.pin import pin

    parts = [f"name: s, path: {documents}, format: jsonl, fields: {{text: text}}"]
    parts += [_CLEANING] if case == "web" else []
    conf = {name: value for name, value in CONF.items() if not name.startswith("spark.eventLog")}
    settings = configuration.load(
        overrides=[
            f"root={root}",
            f"corpus.sources=[{{{', '.join(parts)}}}]",
            "spark={" + ", ".join(f'{key}: "{value}"' for key, value in conf.items()) + "}",
            *(_WEB if case == "web" else ()),
        ]
    )
    config = settings.section("corpus", corpus.Config)
    began = time.monotonic()
    outcome = corpus.main(config)
    seconds = time.monotonic() - began
    assert outcome.ran
    tables = {}
    for table in (config.quarantine, *config.measured, *config.evidence, config.ledger, config.documents):
        pinned = pin(table)
        assert pinned is not None
        tables[Path(table).name] = pinned.digest
    return seconds, outcome.why, tables


def measure(case: Case, megabytes: float) -> dict[str, Any]:
    """Seconds of each run, and the share. Raises RuntimeError if the tables differ."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, write = Path(scratch), WRITERS[case]
        write(folder / "all", NUM_FILES + 1, megabytes / NUM_FILES)
        write(folder / "small", 2, 1.0)
        (folder / "raw").mkdir()
        (folder / "few").mkdir()
        for file in sorted((folder / "small").iterdir()):  # a full run, and an increment
            shutil.move(file, folder / "few" / file.name)
            run_corpus(case, folder / "few", folder / "warm")
        *first, last = sorted((folder / "all").iterdir())
        for file in first:
            shutil.move(file, folder / "raw" / file.name)
        before, _, _ = run_corpus(case, folder / "raw", folder / "grown")
        shutil.move(last, folder / "raw" / last.name)
        increment, why, grown = run_corpus(case, folder / "raw", folder / "grown")
        full, _, expected = run_corpus(case, folder / "raw", folder / "full")
    if grown != expected or not why.startswith("1 new file since"):
        raise RuntimeError(f"the increment ({why}) gave tables {grown}, a full run {expected}")
    result = {
        "seconds": {"100 files": before, "one more": increment, "101 files": full},
        "fraction": increment / full,
        "bar": MAX_FRACTION,
        "digests": grown,
    }
    console.print_json(data=result)
    return result


Megabytes = Annotated[float, typer.Option(help="MB of the 100 files together.")]
Corpus = Annotated[Case, typer.Option(help="The corpus; see above.")]


def main(case: Corpus = "web", megabytes: Megabytes = 200.0) -> None:
    """Measure the run after one file was added; see the module."""
    output = RESULTS / f"increment_{case}.json"
    run_benchmark(lambda: measure(case, megabytes), output, case=case, megabytes=megabytes)


if __name__ == "__main__":
    typer.run(main)
