"""What one more file costs the dataset stage: a run after a file of 1 % was added, against a full run.

The corpus: texts of books without rules, as the case plain of `benchmarks.increment`. Sequences: best_fit,
1,024 tokens, the default groups, a tokenizer of 8,192 tokens that is trained once on all books.

One process starts Spark and runs both stages and an increment on a small input (so that code is loaded and
compiled), then both stages on 100 files. One file more goes through the corpus stage; then the dataset stage
runs on the tables that are there (the increment), and into a new table (the full run). Counted is a whole run
of the dataset stage, plan and commits too, but not the start of Spark. Digests and counts must be equal, and
the files of groups that were not built again must be the same as before.

The increment has a part that does not depend on the corpus (jobs, commits), and it builds at least one group,
so its share falls with the size. Exit status: 0, also if the bar is missed; 2 if something failed, or if
digests, counts or files are not as they must be.
"""

import gzip
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from benchmarks.books import BOOKS, write_books
from benchmarks.increment import MAX_FRACTION, NUM_FILES, RESULTS
from benchmarks.measuring import run_benchmark
from benchmarks.stages import CONF
from jobs.shell.display import console

VOCAB_SIZE, SEQUENCE_LENGTH = 8_192, 1_024


def write_tokenizer_folder(folder: Path) -> Path:
    """A folder that dataset.tokenizer.base may name."""
    from pipelines.dataset.tokenizer import END_OF_TEXT, train_bpe

    texts = (gzip.decompress(file.read_bytes()).decode() for file in sorted(BOOKS.rglob("*.gz")))
    folder.mkdir()
    train_bpe(texts, vocab_size=VOCAB_SIZE).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END_OF_TEXT}))
    return folder


class Lake:
    """The tables below a folder, made from the files of another one."""

    def __init__(self, raw: Path, root: Path, base: Path) -> None:
        self._raw, self._root, self._base = raw, root, base

    def run(self, stage: str, sequences: str = "sequences") -> tuple[float, str, Any]:
        """(seconds, groups that were built, pin of the table that the stage writes last)."""
        from jobs import corpus, dataset
        from jobs.shell import settings as configuration
        from pipelines.pin import pin

        conf = {name: value for name, value in CONF.items() if not name.startswith("spark.eventLog")}
        loaded = configuration.load(
            overrides=[
                f"root={self._root}",
                f"corpus.sources=[{{name: s, path: {self._raw}, format: jsonl, fields: {{text: text}}}}]",
                "dataset.task=language_modelling",
                f"dataset.sequences={self._root / sequences}",
                f"dataset.tokenizer.base={self._base}",
                f"dataset.packing={{method: best_fit, sequence_length: {SEQUENCE_LENGTH}}}",
                "spark={" + ", ".join(f'{key}: "{value}"' for key, value in conf.items()) + "}",
            ]
        )
        module = {"corpus": corpus, "dataset": dataset}[stage]
        config = loaded.section(stage, module.Config)
        began = time.monotonic()
        outcome = module.main(config)
        seconds = time.monotonic() - began
        assert outcome.ran
        return seconds, outcome.facts.get("groups built", ""), pin(outcome.outputs[-1])

    def list_files(self) -> dict[int, set[str]]:
        """Group -> files of the sequences that hold it."""
        from deltalake import DeltaTable

        from pipelines.dataset.layout import POSITION_BITS

        files = pa.table(DeltaTable(self._root / "sequences").get_add_actions(flatten=True)).to_pydict()
        ranges = (files[f"{end}.sequence_id"] for end in ("min", "max"))
        found: dict[int, set[str]] = {}
        for name, *ends in zip(files["path"], *ranges, strict=True):
            for group in range(ends[0] >> POSITION_BITS, (ends[1] >> POSITION_BITS) + 1):
                found.setdefault(group, set()).add(name)
        return found


def require_kept(before: dict[int, set[str]], after: dict[int, set[str]], groups: str) -> int:
    """Number of groups whose files are the same as before. `groups`: those that were built, as "2 of 60".

    Raises RuntimeError if all groups were built, or if files of other groups changed.
    """
    built, separator, _ = groups.partition(" of ")
    if not separator:
        raise RuntimeError(f"all groups were built: {groups}")
    changed = sorted(group for group in before.keys() | after.keys() if before.get(group) != after.get(group))
    if len(changed) > int(built.replace(",", "")):
        raise RuntimeError(f"{built} groups were built, and the files of these have changed: {changed}")
    return len(after.keys() - set(changed))


def measure(megabytes: float) -> dict[str, Any]:
    """Seconds of each run, and the share. Raises RuntimeError if tables differ, or files that must stay."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = write_tokenizer_folder(folder / "base")
        write_books(folder / "all", NUM_FILES + 1, megabytes / NUM_FILES)
        write_books(folder / "small", 2, 1.0)
        warm, lake = (Lake(folder / raw, folder / f"{raw}-lake", base) for raw in ("few", "raw"))
        for name in ("few", "raw"):
            (folder / name).mkdir()
        for file in sorted((folder / "small").iterdir()):  # a full run, and an increment
            shutil.move(file, folder / "few" / file.name)
            warm.run("corpus")
            warm.run("dataset")
        *first, last = sorted((folder / "all").iterdir())
        for file in first:
            shutil.move(file, folder / "raw" / file.name)
        lake.run("corpus")
        before, _, _ = lake.run("dataset")
        files = lake.list_files()
        shutil.move(last, folder / "raw" / last.name)
        lake.run("corpus")
        increment, groups, grown = lake.run("dataset")
        kept = require_kept(files, lake.list_files(), groups)
        full, _, expected = lake.run("dataset", "full")
    if (grown.digest, grown.facts["splits"]) != (expected.digest, expected.facts["splits"]):
        raise RuntimeError(
            f"the increment gave {grown.facts['splits']}, a full run {expected.facts['splits']}"
        )
    counts = grown.facts["splits"].values()
    tokens, sequences = (sum(each[name] for each in counts) for name in ("tokens", "sequences"))
    result = {
        "seconds": {"100 files": before, "one more": increment, "101 files": full},
        "fraction": increment / full,
        "bar": MAX_FRACTION,
        "met": increment / full <= MAX_FRACTION,
        "groups built": groups,
        "groups kept": kept,
        "tokens": tokens,
        "efficiency": tokens / (sequences * SEQUENCE_LENGTH),
        "digest": grown.digest,
    }
    console.print_json(data=result)
    return result


Megabytes = Annotated[float, typer.Option(help="MB of the 100 files together.")]


def main(megabytes: Megabytes = 1_000.0) -> None:
    """Measure the dataset stage after one file was added; see the module."""
    run_benchmark(lambda: measure(megabytes), RESULTS / "increment_dataset.json", megabytes=megabytes)


if __name__ == "__main__":
    typer.run(main)
