"""This checkout beside an earlier commit: the test flow, the corpus stage, commands with nothing to do.

Both versions run with the packages of this environment, in turns, so that other work on the machine slows
both down. Each part repeats in every round; the ratio is that of the medians.

- flow: `distributary run` on the files of the test flow (650 texts, a tiny encoder), into a new root.
- again: the same command once more. All is up to date; nothing may take long.
- corpus: the corpus stage without rules on plain JSON Lines, 3.8 kB a document.
- help, config: `distributary --help` and `config`, against importing the packages that any command needs.

    python -m benchmarks.against v1.0 --rounds 3
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.books import write_books
from benchmarks.measuring import run_benchmark
from jobs.shell.display import console

CHECKOUT = Path(__file__).absolute().parent.parent
OUTPUT = Path(__file__).parent / "results" / "against.json"
BARE = "import typer, rich, omegaconf, pydantic"
MAIN = """
try:
    from jobs.shell.cli import app
except ImportError:
    from jobs.cli import app
app()
"""
FLOW = """
import json, sys
from pathlib import Path
from tests.conftest import flow_overrides, write_tickets
write_tickets(Path(sys.argv[1]) / "raw")
print(json.dumps(flow_overrides(Path(sys.argv[1]))))
"""
Seconds = dict[str, list[float]]


@contextmanager
def check_out(commit: str) -> Iterator[Path]:
    """A working tree of the commit, which is removed afterwards."""
    git = ["git", "-C", str(CHECKOUT), "worktree"]
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def run_python(tree: Path, code: str, *arguments: str) -> tuple[float, str]:
    """(seconds, standard output) of a process in the tree. Raises RuntimeError with its last words."""
    command = ["env", f"PYTHONPATH={tree}", sys.executable, "-c", code, *arguments]
    began = time.monotonic()
    process = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(
            f"{tree.name}: {arguments} ended with {process.returncode}: {process.stderr[-2000:]}"
        )
    return seconds, process.stdout


def measure_round(tree: Path, documents: Path, megabytes: float) -> dict[str, float]:
    """Seconds of each part, once."""
    found = {"bare": run_python(tree, BARE)[0]}
    found |= {name: run_python(tree, MAIN, name)[0] for name in ("--help", "config")}
    with tempfile.TemporaryDirectory() as scratch:
        overrides = json.loads(run_python(tree, FLOW, scratch)[1].splitlines()[-1])
        for part in ("flow", "again"):
            found[part], _ = run_python(tree, MAIN, "run", *overrides)
    if megabytes:
        with tempfile.TemporaryDirectory() as root:
            source = (
                f"name: s, path: {documents}, format: jsonl, fields: {{text: text}}, splits: {{train: 1.0}}"
            )
            places = [f"root={root}", f"tracking.uri=sqlite:///{root}/mlflow.db"]
            found["corpus"], _ = run_python(tree, MAIN, "corpus", *places, f"corpus.sources=[{{{source}}}]")
    return found


def measure(commit: str, rounds: int, megabytes: float) -> dict[str, Any]:
    """Seconds of each part and round of both versions, and the ratios of their medians."""
    seconds: dict[str, Seconds] = {"before": {}, "now": {}}
    with check_out(commit) as tree, tempfile.TemporaryDirectory() as scratch:
        write_books(Path(scratch) / "books", 1, megabytes)
        for _ in range(rounds):
            for version, place in (("before", tree), ("now", CHECKOUT)):
                for part, value in measure_round(place, Path(scratch) / "books", megabytes).items():
                    seconds[version].setdefault(part, []).append(value)
                    console.print(f"{version:6} {part:6} {value:6.1f} s")
    before, now = (median_seconds(seconds[version]) for version in ("before", "now"))
    result = {
        "seconds": seconds,
        "now / before": {part: now[part] / before[part] for part in now},
        "now / bare": {part: now[part] / now["bare"] for part in ("--help", "config")},
    }
    console.print_json(data={name: value for name, value in result.items() if name != "seconds"})
    return result


def median_seconds(seconds: Seconds) -> dict[str, float]:
    return {part: statistics.median(values) for part, values in seconds.items()}


Rounds = Annotated[int, typer.Option(min=1, help="How often each part is measured.")]
Megabytes = Annotated[float, typer.Option(help="MB of JSON Lines for the corpus stage; 0 leaves it out.")]


def main(commit: str, rounds: Rounds = 3, megabytes: Megabytes = 200.0) -> None:
    """Measure this checkout beside COMMIT; see the module."""
    run_benchmark(lambda: measure(commit, rounds, megabytes), OUTPUT, commit=commit, megabytes=megabytes)


if __name__ == "__main__":
    typer.run(main)
