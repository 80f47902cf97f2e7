"""The reservation of a training that has no room now: when and where it will have room, what may start before
that without delaying it, and who would have to make room for it to start at once."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.finetune.queue.resources import Resources, Room, Running, Waiting, find_room, list_ends


class Start(NamedTuple):
    """Start a training in a group."""

    id: int
    group: str


class MakeRoom(NamedTuple):
    """Ask a running training to end at its next step; it goes on later."""

    id: int


@dataclass(slots=True)
class Reservation:
    group: str
    starts_at: float
    """Infinite = the running trainings do not say when they end."""
    spare: Room
    """What will be free in the group beside it when it starts."""

    def admits(self, each: Waiting, group: str, now: float) -> bool:
        """Whether a training may start now in `group`: it will have ended before, or fits beside it."""
        return group != self.group or self._ends_before(each, now) or each.needs.fits(self.spare)

    def note_start(self, each: Waiting, group: str, now: float) -> None:
        if group == self.group and not self._ends_before(each, now):
            self.spare.take(each.needs)

    def _ends_before(self, each: Waiting, now: float) -> bool:
        # Without a known start, short ones that keep coming would delay it for ever.
        return math.isfinite(self.starts_at) and now + each.seconds <= self.starts_at


def reserve(
    head: Waiting, groups: Sequence[str], running: Sequence[Running], resources: Resources, now: float
) -> Reservation:
    """The earliest reservation in one of `groups`, each of which could hold `head` if it were empty."""
    rooms = find_room(running, resources)
    found = [_reserve_in(head, group, running, rooms[group], resources, now) for group in groups]
    return min(found, key=lambda each: each.starts_at)


def _reserve_in(
    head: Waiting, group: str, running: Sequence[Running], room: Room, resources: Resources, now: float
) -> Reservation:
    at = now
    room = room.copy()
    ends = list_ends(running, group, now)
    while not head.needs.fits(room):
        at, ended = next(ends, (math.inf, None))
        if ended is None:  # the group has become smaller than what runs there
            room = Room.of(resources[group])
            break
        room.give(ended.needs)
    room.take(head.needs)
    return Reservation(group, at, room)


def find_victims(
    head: Waiting,
    groups: Sequence[str],
    running: Sequence[Running],
    rooms: Mapping[str, Room],
    may_stop: Callable[[Running], bool],
) -> list[Running]:
    """The trainings of one group that must make room for `head` to start, of the group where they are fewest;
    none if those that are stopping already suffice in some group, or if no group can be freed."""
    choices: list[list[Running]] = []
    for group in groups:
        room = rooms[group].copy()
        present = [each for each in running if each.group == group]
        for each in present:
            if each.is_stopping:
                room.give(each.needs)
        if head.needs.fits(room):
            return []
        # The least important first; among equals the youngest, which is the last that would have its turn.
        order = sorted(
            (each for each in present if not each.is_stopping and may_stop(each)),
            key=lambda each: (each.priority, -each.deadline, -each.started_at, each.id),
        )
        chosen = _take_until_room(head, order, room)
        if chosen:
            choices.append(chosen)
    return min(choices, key=len, default=[])


def _take_until_room(head: Waiting, order: Sequence[Running], room: Room) -> list[Running]:
    """As many of `order` as `head` needs, without those that turn out not to be needed; none if all do not
    suffice."""
    chosen: list[Running] = []
    for each in order:
        room.give(each.needs)
        chosen.append(each)
        if head.needs.fits(room):
            break
    else:
        return []
    for each in list(chosen):
        room.take(each.needs)
        if head.needs.fits(room):
            chosen.remove(each)
        else:
            room.give(each.needs)
    return chosen
