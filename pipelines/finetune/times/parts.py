"""The parts of a training's time, and what the driver makes of the times of all ranks. No torch.

A report is an event of kind `times`: seconds by part and rank since the report before, with what the ranks
did in them. The last one of a training has the split `end`: what came after the last logged step.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from pipelines.finetune.events import EventReader
from pipelines.storage import Folder

Part = Literal["data", "forward_backward", "communication", "optimizer", "other", "evaluation", "checkpoint"]
PARTS: tuple[Part, ...] = get_args(Part)
OUTSIDE_STEPS: tuple[Part, ...] = ("evaluation", "checkpoint")
"""What happens between two steps."""
IN_STEPS = tuple(part for part in PARTS if part not in OUTSIDE_STEPS)
OWN_WORK = tuple(part for part in IN_STEPS if part != "communication")
"""What a rank does itself, however slow the others are."""

KIND, END = "times", "end"
MOST_RANKS = 32
"""Ranks with metrics of their own; of more, only the slowest and the fastest have."""


def make_metrics(report: dict[str, Any]) -> dict[str, float]:
    """The points in MLflow that a report gives; what is not known is left out.

    `time/PART`: share of the time, the mean over ranks. `train/communication_share`: of the time in steps.
    `train/mfu`: model FLOPs utilisation, see flops.py. `rank_R/tokens_per_second`: tokens of a rank in a
    second of its own work, without waits for others. `system/HOST/...`: as MLflow's own system metrics.
    """
    seconds: dict[str, list[float]] = report["seconds"]
    if not sum(report["num_tokens"]):
        return {}
    totals = {part: math.fsum(seconds[part]) for part in PARTS}
    whole, in_steps = sum(totals.values()), sum(totals[part] for part in IN_STEPS)
    metrics = {f"time/{part}": total / whole for part, total in totals.items()}
    metrics["train/communication_share"] = totals["communication"] / in_steps
    if all(report["peak_flops"]) and all(report["flops"]):
        mean = in_steps / len(report["flops"])
        metrics["train/mfu"] = sum(report["flops"]) / (mean * sum(report["peak_flops"]))
    return metrics | _rank_metrics(report) | _system_metrics(report)


def own_seconds(report: dict[str, Any], rank: int) -> float:
    """Seconds in which a rank did its own work."""
    return math.fsum(report["seconds"][part][rank] for part in OWN_WORK)


def _rank_metrics(report: dict[str, Any]) -> dict[str, float]:
    tokens: Sequence[float] = report["num_tokens"]
    speeds = [count / max(own_seconds(report, rank), 1e-9) for rank, count in enumerate(tokens)]
    if len(speeds) <= MOST_RANKS:
        return {f"rank_{rank}/tokens_per_second": speed for rank, speed in enumerate(speeds)}
    return {
        "rank_slowest/tokens_per_second": min(speeds),
        "rank_fastest/tokens_per_second": max(speeds),
        "rank_slowest/number": float(speeds.index(min(speeds))),
    }


def _system_metrics(report: dict[str, Any]) -> dict[str, float]:
    """Of each host once; GPUs, which ranks name by their own number, of each rank."""
    metrics: dict[str, float] = {}
    for host, values in zip(report["hosts"], report.get("system", []), strict=False):
        for name, value in values.items():
            metrics.setdefault(f"system/{host.replace(':', '_')}/{name}", value)
    return metrics


def read_reports(folder: str) -> list[dict[str, Any]]:
    """All reports of the training in a run folder, in order; empty for one of an earlier version."""
    events = EventReader(Folder(folder) / "events").new()
    found = [event for event in events if event["kind"] == KIND]
    return sorted(found, key=lambda report: (report["step"], report.get("split") == END))
