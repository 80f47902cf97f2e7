"""Policies: who starts, who waits, who makes room. All expected decisions were found by hand."""

import math

import numpy as np
import pytest

from pipelines.finetune.queue.policies import POLICIES
from pipelines.finetune.queue.reservation import MakeRoom, Start, find_victims, reserve
from pipelines.finetune.queue.resources import Amount, Room, Running, Waiting, find_room

CPU, GPU = Amount(slots=4, memory_gb=16.0), Amount(slots=4, gpus=2.0, memory_gb=16.0)
ONE, TWO = {"cpu": CPU}, {"cpu": CPU, "gpu": GPU}


def waiting(number, slots=1, **changes):
    """A training that was added `number` seconds after the start and takes 100 s."""
    values = {"added_at": float(number), "seconds": 100.0, **changes}
    needs = Amount(slots=slots, gpus=values.pop("gpus", 0.0), memory_gb=values.pop("memory_gb", 0.0))
    return Waiting(id=number, needs=needs, **values)


def running(number, slots=1, group="cpu", **changes):
    values = {"started_at": 0.0, "ends_at": 100.0, **changes}
    needs = Amount(slots=slots, gpus=values.pop("gpus", 0.0), memory_gb=values.pop("memory_gb", 0.0))
    return Running(id=number, needs=needs, group=group, **values)


def choose(policy, waits, runs=(), resources=ONE, now=50.0):
    return POLICIES[policy].choose(waits, runs, resources, now)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_starts_where_there_is_nothing_to_start_or_no_room(policy):
    assert choose(policy, []) == []
    assert choose(policy, [waiting(1)], [running(9, slots=4)]) == []
    assert choose(policy, [waiting(1, slots=5)]) == []  # no group could ever hold it
    assert choose(policy, [waiting(1)], resources={}) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_a_training_that_no_group_can_hold_stops_no_other(policy):
    assert choose(policy, [waiting(1, gpus=1.0), waiting(2)]) == [Start(2, "cpu")]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_training_that_names_its_group_runs_nowhere_else(policy):
    assert choose(policy, [waiting(1, group="gpu")], resources=TWO) == [Start(1, "gpu")]
    assert choose(policy, [waiting(1, group="gone")], resources=TWO) == []


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("part", ["slots", "gpus", "memory_gb"])
def test_each_resource_is_a_limit(policy, part):
    whole = Amount(slots=10, gpus=10.0, memory_gb=10.0)
    six = {"slots": 1, part: 6}
    chosen = choose(policy, [waiting(1, **six), waiting(2, **six)], resources={"all": whole})
    assert chosen == [Start(1, "all")]
    four = {"slots": 1, part: 4}
    chosen = choose(policy, [waiting(1, **six), waiting(2, **four)], resources={"all": whole})
    assert sorted(chosen) == [Start(1, "all"), Start(2, "all")]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_ever_gives_away_more_than_there_is(policy):
    random = np.random.default_rng(0)
    num_started = 0
    for _ in range(200):
        waits = [
            waiting(
                number,
                slots=int(random.integers(1, 5)),
                gpus=float(random.integers(0, 3)),
                memory_gb=float(random.uniform(0, 16)),
                seconds=float(random.choice([10.0, 100.0, math.inf])),
                priority=int(random.integers(0, 3)),
                deadline=float(random.choice([120.0, 400.0, math.inf])),
            )
            for number in range(12)
        ]
        runs = [running(99, slots=2, group="gpu", gpus=1.0, priority=1)]
        chosen = choose(policy, waits, runs, TWO)
        started = [each for each in chosen if isinstance(each, Start)]
        rooms = find_room(runs, TWO)
        for each in started:
            rooms[each.group].take(waits[each.id].needs)
        assert all(part >= -1e-6 for room in rooms.values() for part in room.parts())
        assert len({each.id for each in chosen}) == len(chosen)
        num_started += len(started)
    assert num_started > 100


def test_static_waits_for_its_own_group_only():
    waits = [waiting(number) for number in range(4)]
    full = [running(9, slots=4, group="gpu")]
    assert choose("static", waits, full, TWO) == [Start(0, "cpu"), Start(2, "cpu")]


def test_round_robin_takes_groups_in_turn_and_goes_on_after_the_latest_start():
    waits = [waiting(number) for number in range(3)]
    assert choose("round_robin", waits, (), TWO) == [Start(0, "cpu"), Start(1, "gpu"), Start(2, "cpu")]
    earlier = [running(8, group="gpu", started_at=1.0), running(9, group="cpu", started_at=2.0)]
    assert choose("round_robin", waits[:1], earlier, TWO) == [Start(0, "gpu")]


@pytest.mark.parametrize("policy", ["round_robin", "load_balanced"])
def test_policies_by_arrival_wait_for_the_first_one(policy):
    waits, runs = [waiting(1, slots=4), waiting(2)], [running(9)]
    assert choose(policy, waits, runs) == []


def test_shortest_first_lets_short_ones_pass():
    waits = [waiting(1, slots=4, seconds=500.0), waiting(2, slots=2), waiting(3, slots=2, seconds=10.0)]
    assert choose("shortest_first", waits, [running(9)]) == [Start(3, "cpu")]


def test_an_unknown_time_counts_as_long():
    waits = [waiting(1, slots=3, seconds=math.inf), waiting(2, slots=3, seconds=900.0)]
    assert choose("shortest_first", waits) == [Start(2, "cpu")]


def test_load_balanced_takes_the_emptier_group_by_its_fullest_resource():
    assert choose("load_balanced", [waiting(1)], [running(9)], TWO) == [Start(1, "gpu")]
    memory = [running(9, slots=1, group="gpu", memory_gb=15.0)]  # one slot of four, but nearly all memory
    assert choose("load_balanced", [waiting(1)], memory, TWO) == [Start(1, "cpu")]


def test_resource_aware_keeps_gpus_free_and_packs_tightly():
    assert choose("resource_aware", [waiting(1)], (), {"gpu": GPU, "cpu": CPU}) == [Start(1, "cpu")]
    two = {"first": CPU, "second": CPU}
    assert choose("resource_aware", [waiting(1)], [running(9, group="second")], two) == [Start(1, "second")]


def test_resource_aware_goes_by_priority_then_by_wait_over_time():
    waits = [
        waiting(1, slots=3, added_at=0.0, seconds=400.0),  # waited 100 s: 0.25
        waiting(2, slots=3, added_at=60.0, seconds=100.0),  # 0.4
        waiting(3, slots=3, added_at=99.0, seconds=100.0, priority=1),
    ]
    assert choose("resource_aware", waits, now=100.0) == [Start(3, "cpu")]
    assert choose("resource_aware", waits[:2], now=100.0) == [Start(2, "cpu")]
    late = 2_000.0  # the long one has waited 5.0 times its time, the other one 19.4 times
    assert choose("resource_aware", waits[:2], now=late) == [Start(2, "cpu")]
    fresh = [waits[0], waiting(4, slots=3, added_at=1_999.0, seconds=100.0)]
    assert choose("resource_aware", fresh, now=late) == [Start(1, "cpu")]  # none waits for ever


def test_a_wide_training_is_passed_only_by_those_that_do_not_delay_it():
    wide = waiting(1, slots=4, added_at=-900.0)  # starts when the running one has ended, at 100
    runs = [running(9, slots=2)]
    short, long = waiting(2, seconds=50.0), waiting(3, seconds=51.0)
    assert choose("resource_aware", [wide, short, long], runs) == [Start(2, "cpu")]


def test_a_training_beside_the_reservation_may_be_long():
    wide = waiting(1, slots=3, added_at=-900.0)  # leaves one slot at 100
    runs = [running(9, slots=2)]
    waits = [wide, waiting(2, seconds=9_000.0), waiting(3, seconds=9_000.0)]
    assert choose("resource_aware", waits, runs) == [Start(2, "cpu")]


def test_nothing_passes_while_no_end_is_known():
    wide = waiting(1, slots=4, added_at=-900.0)
    runs = [running(9, slots=2, ends_at=math.inf)]
    assert choose("resource_aware", [wide, waiting(2, added_at=50.0, seconds=1.0)], runs) == []


def test_another_group_than_the_reserved_one_is_free():
    wide = waiting(1, slots=4, added_at=-900.0)
    runs = [running(9, slots=2), running(8, slots=2, group="gpu", ends_at=5_000.0)]
    assert choose("resource_aware", [wide, waiting(2, seconds=9_000.0)], runs, TWO) == [Start(2, "gpu")]


def test_a_late_training_may_end_at_any_moment():
    reserved = reserve(waiting(1, slots=4), ["cpu"], [running(9, slots=4, ends_at=10.0)], ONE, 50.0)
    assert (reserved.group, reserved.starts_at) == ("cpu", 50.0)


def test_the_earliest_of_several_ends_that_suffices():
    runs = [running(7, slots=1, ends_at=60.0), running(8, slots=2, ends_at=70.0), running(9, ends_at=90.0)]
    reserved = reserve(waiting(1, slots=3), ["cpu"], runs, ONE, 50.0)
    assert reserved.starts_at == 70.0
    assert reserved.spare.slots == 0


def test_a_higher_priority_asks_the_least_important_to_make_room():
    runs = [
        running(5, slots=2, priority=1, started_at=3.0),
        running(6, slots=1, priority=0, started_at=1.0),
        running(7, slots=1, priority=0, started_at=2.0),
    ]
    assert choose("resource_aware", [waiting(1, slots=1, priority=1)], runs) == [MakeRoom(7)]  # the youngest
    assert choose("resource_aware", [waiting(1, slots=2, priority=1)], runs) == [MakeRoom(7), MakeRoom(6)]
    assert choose("resource_aware", [waiting(1, slots=3, priority=1)], runs) == []  # not its equal
    assert choose("resource_aware", [waiting(1, slots=1, priority=0)], runs) == []


def test_only_as_many_as_are_needed_make_room():
    runs = [running(6, slots=1, started_at=2.0), running(7, slots=3, started_at=1.0)]
    assert choose("resource_aware", [waiting(1, slots=3, priority=1)], runs) == [MakeRoom(7)]


def test_no_second_request_while_one_is_obeyed():
    runs = [running(6, slots=2, is_stopping=True), running(7, slots=2)]
    head = waiting(1, slots=2, priority=1)
    assert choose("resource_aware", [head], runs) == []
    # And no training takes the room that is being made.
    runs = [running(6, slots=2, is_stopping=True), running(7, slots=1)]
    assert choose("resource_aware", [waiting(1, slots=3, priority=1), waiting(2, seconds=5.0)], runs) == []


def test_room_is_made_in_the_group_with_the_fewest_victims():
    runs = [running(5, slots=2), running(6, slots=2), running(7, slots=4, group="gpu")]
    assert choose("resource_aware", [waiting(1, slots=4, priority=1)], runs, TWO) == [MakeRoom(7)]


def test_no_one_makes_room_in_vain():
    runs = [running(6, slots=2, priority=0), running(7, slots=2, priority=5)]
    rooms = find_room(runs, ONE)
    head = waiting(1, slots=4, priority=1)
    assert find_victims(head, ["cpu"], runs, rooms, lambda each: each.priority < 1) == []


def test_the_earliest_deadline_goes_first():
    waits = [waiting(1, slots=3), waiting(2, slots=3, deadline=900.0), waiting(3, slots=3, deadline=800.0)]
    assert choose("deadline", waits) == [Start(3, "cpu")]


@pytest.mark.parametrize(
    ("deadline", "seconds", "expected"),
    [
        (199.0, 100.0, [MakeRoom(9)]),  # it would start at 100 and end at 200
        (200.0, 100.0, []),  # it can wait
        (149.0, 100.0, []),  # too late in any case
    ],
)
def test_a_deadline_makes_room_only_where_that_saves_it(deadline, seconds, expected):
    runs = [running(9, slots=4, ends_at=100.0)]
    assert choose("deadline", [waiting(1, slots=2, deadline=deadline, seconds=seconds)], runs) == expected


def test_an_earlier_deadline_makes_no_room():
    runs = [running(9, slots=4, ends_at=100.0, deadline=150.0)]
    assert choose("deadline", [waiting(1, slots=2, deadline=199.0)], runs) == []


def test_thirds_of_a_gpu_fit():
    room = Room.of(Amount(slots=3, gpus=1.0))
    third = Amount(slots=1, gpus=1 / 3)
    for _ in range(3):
        assert third.fits(room)
        room.take(third)
    assert not Amount(slots=0, gpus=0.01).fits(room)


def test_an_amount_below_nothing_is_refused():
    with pytest.raises(ValueError, match="memory_gb must be a number of at least 0, got -1"):
        Amount(slots=1, memory_gb=-1.0)
    with pytest.raises(ValueError, match="gpus must be a number of at least 0, got inf"):
        Amount(slots=1, gpus=math.inf)
