"""Policies: which waiting training starts next, and where. Pure functions of what waits, what runs, what
there is and the time: the scheduler and the simulation ask the same code.

| policy | order | the first one that has no room |
|---|---|---|
| static | arrival, in the group that its number gives it | its group waits for it |
| round_robin | arrival, groups in turn | all wait for it |
| shortest_first | expected time | others pass it |
| load_balanced | arrival, into the group with the smallest load | all wait for it |
| resource_aware | priority, then wait in proportion to expected time | others pass it that do not delay it |
| deadline | deadline, then priority | others pass it that do not delay it |

The last two ask running trainings to make room: see `reservation`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.finetune.queue.reservation import MakeRoom, Start, find_victims, reserve
from pipelines.finetune.queue.resources import Resources, Room, Running, Waiting, find_room

Decision = Start | MakeRoom


class Policy(Protocol):
    def choose(
        self, waiting: Sequence[Waiting], running: Sequence[Running], resources: Resources, now: float
    ) -> list[Decision]:
        """What to do now, in this order. A training that no group could hold is passed over."""
        ...


@dataclass(frozen=True, slots=True)
class Static:
    """Training number n belongs to group n modulo their number, whatever the others do."""

    def choose(
        self, waiting: Sequence[Waiting], running: Sequence[Running], resources: Resources, now: float
    ) -> list[Decision]:
        rooms, blocked, decisions = find_room(running, resources), set[str](), list[Decision]()
        for each in _by_arrival(waiting):
            groups = each.list_groups(resources)
            if not groups:
                continue
            group = groups[each.id % len(groups)]
            if group in blocked or not each.needs.fits(rooms[group]):
                blocked.add(group)
                continue
            decisions.append(_start(each, group, rooms))
        return decisions


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Groups in turn, beginning after that of the training that started last among those that run; if none
    runs, with the first one."""

    def choose(
        self, waiting: Sequence[Waiting], running: Sequence[Running], resources: Resources, now: float
    ) -> list[Decision]:
        rooms, names, decisions = find_room(running, resources), list(resources), list[Decision]()
        latest = max(running, key=lambda each: (each.started_at, each.id), default=None)
        turn = names.index(latest.group) + 1 if latest is not None and latest.group in names else 0
        for each in _by_arrival(waiting):
            groups = each.list_groups(resources)
            if not groups:
                continue
            in_turn = [names[(turn + number) % len(names)] for number in range(len(names))]
            group = _first_with_room(each, [name for name in in_turn if name in groups], rooms)
            if group is None:
                break
            decisions.append(_start(each, group, rooms))
            turn = names.index(group) + 1
        return decisions


@dataclass(frozen=True, slots=True)
class ShortestFirst:
    """The least mean wait where all need the same; a large training may wait for ever."""

    def choose(
        self, waiting: Sequence[Waiting], running: Sequence[Running], resources: Resources, now: float
    ) -> list[Decision]:
        rooms, decisions = find_room(running, resources), list[Decision]()
        for each in sorted(waiting, key=lambda each: (each.seconds, each.added_at, each.id)):
            group = _first_with_room(each, each.list_groups(resources), rooms)
            if group is not None:
                decisions.append(_start(each, group, rooms))
        return decisions


@dataclass(frozen=True, slots=True)
class LoadBalanced:
    """The group whose largest share in use is smallest after the start; of equal ones the first."""

    def choose(
        self, waiting: Sequence[Waiting], running: Sequence[Running], resources: Resources, now: float
    ) -> list[Decision]:
        rooms, decisions = find_room(running, resources), list[Decision]()
        for each in _by_arrival(waiting):
            groups = each.list_groups(resources)
            if not groups:
                continue
            free = [name for name in groups if each.needs.fits(rooms[name])]
            if not free:
                break
            group = min(free, key=lambda name: _load_after(each, resources, name, rooms[name]))
            decisions.append(_start(each, group, rooms))
        return decisions


@dataclass(frozen=True, slots=True)
class ResourceAware:
    """Among equal priorities by (wait + time) / time (highest response ratio next, Brinch Hansen 1971): short
    trainings go first, and none waits for ever. Each into the group where the least is left unused."""

    def choose(
        self, waiting: Sequence[Waiting], running: Sequence[Running], resources: Resources, now: float
    ) -> list[Decision]:
        longest = max((each.seconds for each in waiting if math.isfinite(each.seconds)), default=1.0)

        def order(each: Waiting) -> tuple[float, ...]:
            seconds = max(1.0, min(each.seconds, longest))
            return -each.priority, -(now - each.added_at) / seconds, seconds, each.id

        def may_stop(head: Waiting, each: Running, starts_at: float) -> bool:
            return each.priority < head.priority

        return _fill(sorted(waiting, key=order), running, resources, now, may_stop)


@dataclass(frozen=True, slots=True)
class Deadline:
    """Earliest deadline first. For a training that would miss its deadline, those with a later one make room,
    if that helps."""

    def choose(
        self, waiting: Sequence[Waiting], running: Sequence[Running], resources: Resources, now: float
    ) -> list[Decision]:
        def may_stop(head: Waiting, each: Running, starts_at: float) -> bool:
            seconds = head.seconds if math.isfinite(head.seconds) else 0.0
            misses, helps = starts_at + seconds > head.deadline, now + seconds <= head.deadline
            return misses and helps and each.deadline > head.deadline

        ordered = sorted(waiting, key=lambda each: (each.deadline, -each.priority, each.added_at, each.id))
        return _fill(ordered, running, resources, now, may_stop)


POLICIES: dict[str, Policy] = {
    "static": Static(),
    "round_robin": RoundRobin(),
    "shortest_first": ShortestFirst(),
    "load_balanced": LoadBalanced(),
    "resource_aware": ResourceAware(),
    "deadline": Deadline(),
}


def _fill(
    ordered: Iterable[Waiting],
    running: Sequence[Running],
    resources: Resources,
    now: float,
    may_stop: Callable[[Waiting, Running, float], bool],
) -> list[Decision]:
    """Start trainings in this order. The first one without room gets a reservation, at the earliest time that
    the ends of the running ones allow; later ones start now only if they do not delay it (EASY backfilling,
    Lifka 1995)."""
    rooms, decisions = find_room(running, resources), list[Decision]()
    started: list[Running] = []
    reserved = None
    for each in ordered:
        groups = each.list_groups(resources)
        free = [name for name in groups if each.needs.fits(rooms[name])]
        if reserved is not None:
            free = [name for name in free if reserved.admits(each, name, now)]
        if free:
            group = min(free, key=lambda name: _left_unused(each, resources, name, rooms[name]))
            decisions.append(_start(each, group, rooms))
            started.append(_expect(each, group, now))
            if reserved is not None:
                reserved.note_start(each, group, now)
        elif groups and reserved is None:
            present = [*running, *started]
            reserved = reserve(each, groups, present, resources, now)
            head, starts_at = each, reserved.starts_at
            victims = find_victims(
                head,
                groups,
                running,
                rooms,
                lambda other: may_stop(head, other, starts_at),  # noqa: B023
            )
            if victims:
                decisions += [MakeRoom(victim.id) for victim in victims]
                asked = {victim.id for victim in victims}
                staying = [other for other in present if other.id not in asked]
                reserved = reserve(each, [victims[0].group], staying, resources, now)
    return decisions


def _expect(each: Waiting, group: str, now: float) -> Running:
    return Running(id=each.id, needs=each.needs, group=group, started_at=now, ends_at=now + each.seconds)


def _by_arrival(waiting: Iterable[Waiting]) -> list[Waiting]:
    return sorted(waiting, key=lambda each: (each.added_at, each.id))


def _first_with_room(each: Waiting, groups: Iterable[str], rooms: dict[str, Room]) -> str | None:
    return next((name for name in groups if each.needs.fits(rooms[name])), None)


def _start(each: Waiting, group: str, rooms: dict[str, Room]) -> Start:
    rooms[group].take(each.needs)
    return Start(each.id, group)


def _load_after(each: Waiting, resources: Resources, name: str, room: Room) -> float:
    """The largest share of a group in use, once the training has started there."""
    used = [
        (have - free + need) / have
        for have, free, need in zip(resources[name].parts(), room.parts(), each.needs.parts(), strict=True)
        if have
    ]
    return max(used, default=0.0)


def _left_unused(each: Waiting, resources: Resources, name: str, room: Room) -> tuple[float, float]:
    """First the share of what the group has and the training does not need at all, such as GPUs; then how
    much would be left, as the sum of shares: the tighter, the better for large ones that come later."""
    idle, left = 0.0, 0.0
    for have, free, need in zip(resources[name].parts(), room.parts(), each.needs.parts(), strict=True):
        if have:
            idle += 0.0 if need else 1.0
            left += (free - need) / have
    return idle, left
