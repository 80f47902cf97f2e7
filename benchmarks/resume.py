"""Sequences replayed and lost when a training is killed and resumed, beside LanceDB and MosaicML Streaming.

Ranks read global batches of 24 of 4,992 sequences. After step 40 they save what the library gives them to
resume from; after step 60 all are killed by SIGKILL. They start again from the checkpoint, with as many ranks
or another number, and read to the end of the epoch. What a model has learned from in the end are the steps
up to the checkpoint and those after the restart. In these, each sequence should be once:

- replayed: how often a sequence came again; lost: sequences that never came;
- steps: global batches after the restart whose sequences differ from those of an epoch without a kill, at
  the first world size, as sets (0 = the same training, at any world size);
- litter: entries that the killed ranks left in /dev/shm, by the names that their libraries give them.

Exit status: 0, also if the bar is missed (ours 0 and 0); 2 if something failed.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from json import loads
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.table import Table

from benchmarks.measuring import run_benchmark
from benchmarks.peers import ask_peer, find_peer
from benchmarks.resume_scripts import LANCEDB, MOSAICML, OURS, WRITE_LANCEDB, WRITE_MOSAICML
from jobs.shell.display import console
from pipelines.dataset.reader import write_split
from pipelines.dataset.rows import NO_LABEL, Rows

RESULT = Path(__file__).parent / "results" / "resume.json"
NUM_ROWS, GLOBAL_BATCH, CHECKPOINT, KILLED = 4_992, 24, 40, 60
WORLDS = ((2, 2), (2, 3), (2, 1))
"""Ranks before the kill and after it."""
SHARED = Path("/dev/shm")
LITTER = re.compile(r"\d{6}_|torch_|psm_|sem\.mp-|mp-")
"""Names of MosaicML Streaming (000000_barrier), torch's tensors, and Python's multiprocessing."""


class Found(NamedTuple):
    replayed: int
    lost: int
    steps: int
    litter: int


def write_rows(place: Path) -> None:
    """Ours, and ids.npy for the peers."""
    ids = np.repeat(np.arange(NUM_ROWS, dtype=np.int32)[:, None], 8, axis=1)
    np.save(place / "ids.npy", ids)
    rows = Rows(
        input_ids=list(ids),
        is_target=[np.arange(8) > 0] * NUM_ROWS,
        segment_lengths=[np.array([8], dtype=np.int32)] * NUM_ROWS,
        labels=np.full(NUM_ROWS, NO_LABEL),
        num_targets=np.full(NUM_ROWS, 7),
        num_bytes=np.full(NUM_ROWS, 8),
    )
    write_split(place / "ours", rows)


def launch(
    python: Path, script: Path, place: Path, here: Path, world: int, last: int, before: Path | None
) -> list[list[int]]:
    """The rows of each global batch. Raises RuntimeError if a rank did not end as it should."""
    here.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(world):
        arguments = (place, here, rank, world, GLOBAL_BATCH, last, before or "-")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
        environment |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_PORT": str(port)}
        if python == Path(sys.executable):
            environment["PYTHONPATH"] = str(Path(__file__).absolute().parent.parent)
        with (here / f"{rank}.out").open("w") as output:
            ranks.append(
                subprocess.Popen(
                    [str(python), str(script), *map(str, arguments)],
                    stdout=output,
                    stderr=output,
                    cwd=here,
                    env=environment,
                )
            )
    try:
        statuses = [rank.wait(timeout=300) for rank in ranks]
    finally:
        for each in ranks:
            each.kill()
    if statuses != [-9 if last else 0] * world:
        said = "\n".join((here / f"{rank}.out").read_text()[-1_500:] for rank in range(world))
        raise RuntimeError(f"ranks ended with {statuses}: {said}")
    logs = [(here / f"{rank}.log").read_text().splitlines() for rank in range(world)]
    return [[row for line in lines for row in loads(line)[1]] for lines in zip(*logs, strict=True)]


def list_litter() -> set[Path]:
    """Entries of shared memory with names of our readers' libraries; other programs make others meanwhile."""
    return {entry for entry in SHARED.iterdir() if LITTER.match(entry.name)}


def measure(python: Path, script: str, place: Path, name: str) -> dict[str, Found]:
    """By world sizes, as "2 to 3 ranks"."""
    file = place / f"read_{name}.py"  # not the name of a package, which it would hide
    file.write_text(script, encoding="utf-8")
    found, undisturbed = {}, launch(python, file, place, place / f"{name}-whole", WORLDS[0][0], 0, None)
    for number, (first, second) in enumerate(WORLDS):
        existing = list_litter()
        killed, resumed = place / f"{name}-{number}-killed", place / f"{name}-{number}-resumed"
        steps = launch(python, file, place, killed, first, KILLED, None)[:CHECKPOINT]
        litter = list_litter() - existing
        steps += launch(python, file, place, resumed, second, 0, killed)
        seen = Counter(row for step in steps for row in step)
        others = sum(
            set(ours) != set(theirs) for ours, theirs in zip(steps, undisturbed, strict=False)
        ) + abs(len(steps) - len(undisturbed))
        found[f"{first} to {second} ranks"] = Found(
            replayed=seen.total() - len(seen), lost=NUM_ROWS - len(seen), steps=others, litter=len(litter)
        )
        console.print(f"{name}, {first} to {second} ranks: {found[f'{first} to {second} ranks']}")
    return found


def run(place: Path) -> dict[str, Any]:
    write_rows(place)
    results = {"ours": measure(Path(sys.executable), OURS, place, "ours")}
    peers = {"lancedb": (WRITE_LANCEDB, LANCEDB), "mosaicml": (WRITE_MOSAICML, MOSAICML)}
    for name, (write, read) in peers.items():
        python = find_peer(name)
        if python is None:
            console.print(f"{name} is not installed; run: python -m benchmarks.peers")
            continue
        ask_peer(python, write, place)
        results[name] = measure(python, read, place, name)
    table = Table("", "ranks", *Found._fields)
    for name, by_world in results.items():
        for worlds, found in by_world.items():
            table.add_row(name, worlds, *map(str, found))
    console.print(table)
    met = all(found == Found(0, 0, 0, 0) for found in results["ours"].values())
    console.print(f"bar {'met' if met else 'not met'}: ours replays and loses nothing")
    return {
        "found": {name: {w: f._asdict() for w, f in each.items()} for name, each in results.items()},
        "met": met,
    }


Output = Annotated[Path, typer.Option(dir_okay=False, help="JSON file with the counts and the machine.")]


def main(output: Output = RESULT) -> None:
    with tempfile.TemporaryDirectory() as place:
        run_benchmark(lambda: run(Path(place)), output)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
