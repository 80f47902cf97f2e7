"""What trainings need and what groups of machines have: slots, GPUs and memory, as the scheduler counts them.

A group is a set of equal machines, such as those with GPUs. All ranks of a training run in one group.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

TOLERANCE = 1e-9
"""Parts of GPUs and of gigabytes are floats: 0.1 three times is more than 0.3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """Of a training: what all its ranks need together. Of a group: what all its machines have."""

    slots: int
    """CPU threads: ranks times threads of each."""
    gpus: float = 0.0
    memory_gb: float = 0.0

    def __post_init__(self) -> None:
        for name, value in zip(("slots", "gpus", "memory_gb"), self.parts(), strict=True):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of at least 0, got {value}")

    def parts(self) -> tuple[float, float, float]:
        return self.slots, self.gpus, self.memory_gb

    def fits(self, room: "Room") -> bool:
        """Whether `room` has as much of everything."""
        return all(mine <= there + TOLERANCE for mine, there in zip(self.parts(), room.parts(), strict=True))


@dataclass(slots=True)
class Room:
    """What is free in a group. It may be less than nothing: a group may have become smaller."""

    slots: float
    gpus: float
    memory_gb: float

    @classmethod
    def of(cls, amount: Amount) -> "Room":
        return cls(*amount.parts())

    def parts(self) -> tuple[float, float, float]:
        return self.slots, self.gpus, self.memory_gb

    def take(self, needs: Amount) -> None:
        self._add(needs, -1)

    def give(self, needs: Amount) -> None:
        self._add(needs, 1)

    def copy(self) -> "Room":
        return Room(*self.parts())

    def _add(self, needs: Amount, sign: int) -> None:
        self.slots += sign * needs.slots
        self.gpus += sign * needs.gpus
        self.memory_gb += sign * needs.memory_gb


Resources = Mapping[str, Amount]
"""Group -> all that it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A training that waits, as a policy sees it."""

    id: int
    """In the order in which trainings were added."""
    needs: Amount
    added_at: float
    """Seconds since the epoch, as all times here; in a simulation, since its start."""
    seconds: float = math.inf
    """How long it will run, as far as is known; infinite = not known."""
    priority: int = 0
    """Higher goes first."""
    deadline: float = math.inf
    """When it should have ended; infinite = it has none."""
    group: str | None = None
    """Where it must run; None = in any group that is large enough."""

    def list_groups(self, resources: Resources) -> list[str]:
        """The groups that could hold it if they were empty, in the order of the configuration."""
        return [
            name
            for name, whole in resources.items()
            if self.group in (None, name) and self.needs.fits(Room.of(whole))
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A training that runs, as a policy sees it."""

    id: int
    needs: Amount
    group: str
    started_at: float
    ends_at: float = math.inf
    """When it will have ended, as far as is known."""
    priority: int = 0
    deadline: float = math.inf
    is_stopping: bool = False
    """It was asked to make room, or is being cancelled."""


def find_room(running: Iterable[Running], resources: Resources) -> dict[str, Room]:
    """What is free in each group. Trainings in a group that is no longer configured take nothing."""
    rooms = {name: Room.of(whole) for name, whole in resources.items()}
    for each in running:
        if each.group in rooms:
            rooms[each.group].take(each.needs)
    return rooms


def choose_gpus(needed: float, num_gpus: int, used: Mapping[int, float]) -> list[int] | None:
    """Numbers of the GPUs that a training gets, which needs so many; none for 0. `used`: GPU -> the part that
    others have of it. None = too few of them have room for an equal part of it.

    For a part of one, the fullest that has room; else the emptiest.
    """
    free = {gpu: 1.0 - used.get(gpu, 0.0) for gpu in range(num_gpus)}
    if 0 < needed < 1:
        fitting = [gpu for gpu in free if free[gpu] + TOLERANCE >= needed]
        return [min(fitting, key=lambda gpu: (free[gpu], gpu))] if fitting else None
    chosen = sorted(sorted(free, key=lambda gpu: (-free[gpu], gpu))[: math.ceil(needed)])
    fits = all(free[gpu] + TOLERANCE >= needed / len(chosen) for gpu in chosen)
    return chosen if fits and len(chosen) == math.ceil(needed) else None


def list_ends(running: Iterable[Running], group: str, now: float) -> Iterator[tuple[float, Running]]:
    """When each training of a group will end, the first one first. One that is late, or was asked to stop,
    may end at any moment."""
    ends = [
        (now if each.is_stopping else max(now, each.ends_at), each) for each in running if each.group == group
    ]
    yield from sorted(ends, key=lambda pair: (pair[0], pair[1].id))
