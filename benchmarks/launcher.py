"""Time until ranks can train: our barrier launch and `horovod.spark.run`, in turn, on one Spark session.

start: seconds on the driver from the call until the first allreduce has finished on every rank; call: until
the call returns. Each round calls ours twice, then theirs. The first round is printed but not counted. Spark
is running in all of them. The difference:

- run_ranks, kept: in the Python workers of the call before, which have torch loaded. This warm start is what
  the bar is about.
- run_ranks, fresh: in new Python workers, which import torch first. horovod.spark.run does not read the input
  of Spark's workers, so Spark can't use them again, and our first call after it always gets new ones.
- horovod.spark.run: starts its own processes every time.

Exit status: 0, also if the bar is missed; 2 if something failed.
"""

import os
import signal
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import horovod.spark
import pyspark
import torch
import typer
from rich.table import Table

from benchmarks.measuring import run_benchmark
from jobs.shell.display import console
from jobs.shell.progress import Progress, show_progress
from pipelines.finetune.launch.barrier import run_ranks
from pipelines.spark import session

NUM_RANKS = 2
MAX_RATIO = 0.3
"""The bar: our median warm start over theirs. A smaller gain would not be worth the code."""
PATIENCE_SECONDS = 120
RESULT = Path(__file__).parent / "results" / "launcher.json"
CONF = {
    "spark.master": "local[2,4]",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # So that RDDs, which horovod.spark.run starts, take the Python workers of our ranks: what comes after it
    # is fresh.
    "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "false",
}
FRESH, KEPT, THEIRS = "run_ranks, fresh", "run_ranks, kept", "horovod.spark.run"

Sample = dict[str, Any]
Rank = tuple[float, float, int]
Launch = Callable[[], list[Rank]]


def first_collective(*_: Any) -> Rank:
    """One named allreduce: its sum over the ranks, the time when this rank received it, the process id."""
    import horovod.torch as hvd
    import torch

    hvd.init()  # a no-op in our ranks: the launcher has done it
    total = hvd.allreduce(torch.ones(1), op=hvd.Sum, name="first").item()
    return total, time.time(), os.getpid()


def launch_theirs() -> list[Rank]:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        # One machine: with the loopback interface named, it does not search for others.
        return horovod.spark.run(
            first_collective,
            num_proc=NUM_RANKS,
            use_gloo=True,
            nics={"lo"},
            verbose=0,
            start_timeout=PATIENCE_SECONDS,
        )
    finally:
        # It replaces the driver's handlers, and Ctrl-C would not work afterwards.
        for each, handler in before.items():
            signal.signal(each, handler)


def measure(launch: Launch) -> Sample:
    called = time.time()
    ranks = launch()
    returned = time.time()
    sums = [total for total, _, _ in ranks]
    if sums != [NUM_RANKS] * NUM_RANKS:
        raise RuntimeError(f"the allreduce of {NUM_RANKS} ones gave {sums}: the ranks were not one world")
    start = max(finished for _, finished, _ in ranks) - called
    return {"start": start, "call": returned - called, "processes": [pid for _, _, pid in ranks]}


def compare(launchers: dict[str, Launch], pairs: int, work: Progress) -> dict[str, list[Sample]]:
    """Samples by launcher, the warm-up first.

    Raises RuntimeError if a launcher ran in workers of the wrong kind (kept or new).
    """
    samples: dict[str, list[Sample]] = {name: [] for name in launchers}
    before: set[int] = set()
    for number in range(pairs + 1):
        turn = f"round {number} of {pairs}" if number else "warm-up"
        for name, launch in launchers.items():
            work.phase(f"{turn}: {name}")
            sample = measure(launch)
            work.print(
                f"{turn}: {name}: first collective after {sample['start']:.2f} s, call {sample['call']:.2f} s"
            )
            kept = before & set(sample["processes"])
            if len(kept) != (NUM_RANKS if name == KEPT else 0):
                raise RuntimeError(
                    f"{turn}: {name}: {len(kept)} of {NUM_RANKS} ranks ran in a process of earlier ranks"
                )
            before |= set(sample["processes"])
            samples[name].append(sample)
    return samples


def report(samples: dict[str, list[Sample]]) -> dict[str, Any]:
    """Print the table; its numbers, with the samples, for the file."""
    table = Table("seconds", "launcher", "min", "median", "max", "warm-up")
    for what in ("start", "call"):
        for name, (warm_up, *counted) in samples.items():
            values = [sample[what] for sample in counted]
            numbers = (min(values), statistics.median(values), max(values), warm_up[what])
            table.add_row(what, name, *[f"{number:.2f}" for number in numbers], end_section=name == THEIRS)
    console.print(table)
    starts = {name: [sample["start"] for sample in counted] for name, (_, *counted) in samples.items()}
    ratios = {
        name: statistics.median(starts[name]) / statistics.median(starts[THEIRS]) for name in (FRESH, KEPT)
    }
    by_round = {
        name: [ours / theirs for ours, theirs in zip(starts[name], starts[THEIRS], strict=True)]
        for name in ratios
    }
    for name, rounds in by_round.items():
        console.print(
            f"{name}: start {ratios[name]:.2f} of theirs by medians; by round "
            f"{', '.join(f'{each:.2f}' for each in rounds)}, median {statistics.median(rounds):.2f}"
        )
    met = ratios[KEPT] <= MAX_RATIO
    console.print(
        f"bar {'met' if met else 'not met'}: warm start {ratios[KEPT]:.2f} of theirs, limit {MAX_RATIO}"
    )
    return {
        "samples": samples,
        "ratio_of_medians": ratios,
        "ratio_by_round": by_round,
        "max_ratio": MAX_RATIO,
        "met": met,
    }


Pairs = Annotated[int, typer.Option(min=1, help="Counted rounds; one takes about half a minute.")]
Output = Annotated[Path, typer.Option(dir_okay=False, help="JSON file with every sample and the machine.")]


def main(pairs: Pairs = 3, output: Output = RESULT) -> None:
    def measure_all() -> dict[str, Any]:
        with show_progress("launcher") as work:
            work.phase("starting Spark")
            spark = session("distributary benchmark", CONF)
            ours = partial(run_ranks, spark, first_collective, num_ranks=NUM_RANKS)
            samples = compare({FRESH: ours, KEPT: ours, THEIRS: launch_theirs}, pairs, work)
        return report(samples)

    versions = {each.__name__: each.__version__ for each in (pyspark, horovod, torch)}
    run_benchmark(measure_all, output, num_ranks=NUM_RANKS, **versions)


main.__doc__ = __doc__

if __name__ == "__main__":
    typer.run(main)
