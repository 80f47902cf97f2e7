"""`distributary queue simulate`: the policies compared on the same trainings."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from jobs.shell.display import console
from jobs.shell.progress import show_progress
from jobs.shell.queue_settings import QueueConfig
from jobs.shell.queue_show import format_seconds
from pipelines.finetune.queue.load import Load, draw_load, read_load, take_recorded
from pipelines.finetune.queue.policies import POLICIES
from pipelines.finetune.queue.simulate import Result, Simulation
from pipelines.finetune.queue.table import QueueTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The options of the command."""

    trainings: Path | None
    recorded: bool
    load: float
    count: int
    seed: int
    policy: str | None
    """None = all of them."""
    start_seconds: float


def show_simulation(config: QueueConfig, question: Question, *, as_json: bool, picture: str | None) -> None:
    """Print a line for each policy. `picture` gets the timeline of question.policy, or of queue.policy."""
    if question.policy is not None and question.policy not in POLICIES:
        raise ValueError(f"no policy named {question.policy}; choose from: {', '.join(POLICIES)}")
    resources, loads = config.amounts(), find_loads(config, question)
    names = [question.policy] if question.policy else list(POLICIES)
    results: dict[str, Result] = {}
    with show_progress("queue") as progress:
        progress.phase(f"{len(loads):,} trainings")
        for name in names:
            progress.phase(f"simulating {name}")
            simulation = Simulation(POLICIES[name], resources, start_seconds=question.start_seconds)
            results[name] = simulation.run(loads)
    described = {name: describe_result(result) for name, result in results.items()}
    if as_json:
        console.print(
            json.dumps({"num_trainings": len(loads), "policies": described}, indent=2), markup=False
        )
    else:
        _show_table(described)
    if picture is not None:
        from pipelines.queue_charts import draw_timeline

        chosen = config.policy if config.policy in results else names[0]
        sizes = {name: whole.slots for name, whole in resources.items()}
        draw_timeline(results[chosen].bars, sizes, title=f"Simulated: {chosen}").savefig(picture)
        console.print(f"picture of {chosen}: {picture}", markup=False)


def find_loads(config: QueueConfig, question: Question) -> list[Load]:
    """The trainings of the question. Raises ValueError if there are none."""
    if question.trainings is not None:
        text = question.trainings.read_text(encoding="utf-8")
        return read_load(text.splitlines(), str(question.trainings))
    if not question.recorded:
        return draw_load(config.amounts(), load=question.load, count=question.count, seed=question.seed)
    table = QueueTable(config.table)
    found = take_recorded(table.read().state) if table.exists() else []
    if not found:
        raise ValueError(
            f"no training of {config.table} with a known time (it did work, and no attempt was lost or "
            "failed) is done yet; leave out --recorded"
        )
    return found


def describe_result(result: Result) -> dict[str, Any]:
    """Numbers of a policy; times in seconds."""
    return {
        "makespan_seconds": round(result.makespan, 3),
        "mean_wait_seconds": round(float(result.waits.mean()), 3),
        "p95_wait_seconds": round(float(np.percentile(result.waits, 95)), 3),
        "mean_slowdown": round(float(result.slowdowns.mean()), 3),
        "utilisation": {name: round(share, 4) for name, share in result.utilisation.items()},
        "num_preempted": result.num_preempted,
        "num_late": result.num_late,
    }


def _show_table(described: dict[str, dict[str, Any]]) -> None:
    shares = list(next(iter(described.values()))["utilisation"])
    shown = [name.removesuffix("_gb") for name in shares]
    columns = ("policy", "makespan", "mean\nwait", "95 %\nwait", "slow-\ndown", *shown, "made\nroom", "late")
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, found in described.items():
        table.add_row(
            name,
            *(
                format_seconds(found[key])
                for key in ("makespan_seconds", "mean_wait_seconds", "p95_wait_seconds")
            ),
            f"{found['mean_slowdown']:.1f}",
            *(f"{share:.0%}" for share in found["utilisation"].values()),
            str(found["num_preempted"]),
            str(found["num_late"]),
        )
    console.print(table)
