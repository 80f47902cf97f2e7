"""Trainings for a simulation: at random, from a file of JSON lines, or those that a queue has seen."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.finetune.queue.resources import Amount, Resources
from pipelines.finetune.queue.state import QueueState

ESTIMATE_SPREAD = 0.3
"""Standard deviation of the logarithm of expected over real time: a third of the estimates is more than 35 %
wrong."""
MIXTURE = (
    # share, slots, GPUs and memory as shares of a group, median minutes, spread of their logarithm
    (0.50, (0.02, 0.15), 0.0, (0.02, 0.15), 6.0, 0.8),
    (0.20, (0.25, 0.75), 0.0, (0.10, 0.50), 30.0, 0.8),
    (0.10, (0.05, 0.20), 0.0, (0.50, 0.90), 20.0, 0.6),
    (0.20, (0.05, 0.25), 0.5, (0.10, 0.40), 40.0, 0.8),
)
"""The mixed load: many small trainings, some wide ones, some that need much memory, some with GPUs."""
PRIORITIES, DEADLINES = ((0, 0.9), (1, 0.1)), 0.3
"""Priority -> share of the trainings; share of those with a deadline."""
KEYS = {
    "added_at": "seconds since the start",
    "seconds": "it really runs",
    "expected_seconds": "as known before; default: seconds",
    "slots": "CPU threads",
    "gpus": "default 0",
    "memory_gb": "default 0",
    "priority": "default 0",
    "deadline": "seconds since the start; default: none",
    "group": "default: any",
}
"""Of a JSON line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """A training of a simulation."""

    id: int
    needs: Amount
    added_at: float
    """Seconds since the start, as all times here."""
    seconds: float
    """It really runs, without interruptions and starts."""
    expected_seconds: float
    """What the policy knows; infinite = nothing."""
    priority: int = 0
    deadline: float = math.inf
    group: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0 and self.added_at >= 0):
            raise ValueError(
                f"training {self.id}: seconds must be above 0 and added_at at least 0, got {self.seconds} "
                f"and {self.added_at}"
            )


def draw_load(resources: Resources, *, load: float, count: int, seed: int) -> list[Load]:
    """Mixed trainings at random times (Poisson), so many that they need the share `load` of the machines: of
    slots, GPUs or memory, whichever they need most.

    A training with GPUs belongs to a group that has some; without such a group there are none.
    """
    random = np.random.default_rng(seed)
    gpu_groups = [name for name, whole in resources.items() if whole.gpus]
    plain = list(resources)
    kinds = [kind for kind in MIXTURE if gpu_groups or not kind[2]]
    shares = np.array([kind[0] for kind in kinds])
    drawn: list[tuple[Amount, float, float]] = []
    for _ in range(count):
        _, slots, gpus, memory, minutes, spread = kinds[random.choice(len(kinds), p=shares / shares.sum())]
        names = gpu_groups if gpus else plain
        whole = resources[names[random.integers(len(names))]]
        needs = Amount(
            slots=max(1, round(whole.slots * random.uniform(*slots))),
            gpus=float(random.integers(1, max(1, round(whole.gpus * gpus)) + 1)) if gpus else 0.0,
            memory_gb=round(whole.memory_gb * random.uniform(*memory), 3),
        )
        seconds = 60.0 * minutes * math.exp(spread * random.standard_normal())
        drawn.append((needs, seconds, seconds * math.exp(ESTIMATE_SPREAD * random.standard_normal())))
    span = _find_span(drawn, resources) / load
    times = np.sort(random.uniform(0.0, span, count))
    return [
        Load(
            id=number + 1,
            needs=needs,
            added_at=float(times[number]),
            seconds=seconds,
            expected_seconds=expected,
            priority=int(random.choice([p for p, _ in PRIORITIES], p=[share for _, share in PRIORITIES])),
            deadline=_draw_deadline(random, float(times[number]), seconds),
        )
        for number, (needs, seconds, expected) in enumerate(drawn)
    ]


def _draw_deadline(random: np.random.Generator, added_at: float, seconds: float) -> float:
    slack, has_deadline = random.uniform(1.5, 6.0), random.random() < DEADLINES
    return added_at + slack * seconds if has_deadline else math.inf


def _find_span(drawn: Sequence[tuple[Amount, float, float]], resources: Resources) -> float:
    """Seconds that all groups need for all of it if nothing is ever idle."""
    total = [sum(parts) for parts in zip(*(whole.parts() for whole in resources.values()), strict=True)]
    work = [sum(needs.parts()[part] * seconds for needs, seconds, _ in drawn) for part in range(len(total))]
    return max(done / have for done, have in zip(work, total, strict=True) if have)


def read_load(lines: Iterable[str], place: str) -> list[Load]:
    """Trainings from JSON lines with the keys KEYS. Raises ValueError with the line that is wrong."""
    found: list[Load] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_read_line(json.loads(line), len(found) + 1))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{place}, line {number}: {reason}; a line is a JSON object with {', '.join(KEYS)}"
            ) from None
    if not found:
        raise ValueError(f"{place} has no trainings; a line is a JSON object with {', '.join(KEYS)}")
    return found


def _read_line(values: dict[str, Any], number: int) -> Load:
    unknown = sorted(values.keys() - KEYS.keys())
    if unknown:
        raise ValueError(f"unknown key {unknown[0]}")
    deadline, group = values.get("deadline"), values.get("group")
    return Load(
        id=number,
        needs=Amount(
            slots=int(values["slots"]),
            gpus=float(values.get("gpus", 0)),
            memory_gb=float(values.get("memory_gb", 0)),
        ),
        added_at=float(values["added_at"]),
        seconds=float(values["seconds"]),
        expected_seconds=float(values.get("expected_seconds", values["seconds"])),
        priority=int(values.get("priority", 0)),
        deadline=math.inf if deadline is None else float(deadline),
        group=None if group is None else str(group),
    )


def take_recorded(state: QueueState) -> list[Load]:
    """The trainings of a queue whose time is known, with this time. What was expected is what the person
    said, or the mean of the recipe, which the scheduler did not know at first."""
    done = [each for each in state.trainings.values() if each.is_measured]
    start, expected = min((each.added_at for each in done), default=0.0), state.estimate_seconds()
    return [
        Load(
            id=number,
            needs=each.needs,
            added_at=each.added_at - start,
            seconds=max(each.used_seconds, 1e-3),
            expected_seconds=expected[each.name] if each.seconds is None else each.seconds,
            priority=each.priority,
            deadline=math.inf if each.deadline is None else each.deadline - start,
            group=each.group,
        )
        for number, each in enumerate(done, 1)
    ]
