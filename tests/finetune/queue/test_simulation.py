"""The simulation: small loads computed by hand, and the policies on the mixed load."""

import json
import math

import numpy as np
import pytest

from pipelines.finetune.queue.load import Load, draw_load, read_load
from pipelines.finetune.queue.policies import POLICIES
from pipelines.finetune.queue.resources import Amount
from pipelines.finetune.queue.simulate import Simulation

pytest.importorskip("simpy", reason="simpy is not installed: the [simulate] extra")

ONE = {"cpu": Amount(slots=4, memory_gb=16.0)}
MIXED = {"cpu": Amount(slots=16, memory_gb=64.0), "gpu": Amount(slots=8, gpus=4.0, memory_gb=64.0)}


def load(number, slots, added_at, seconds, **changes):
    expected = changes.pop("expected_seconds", seconds)
    return Load(
        id=number,
        needs=Amount(slots=slots),
        added_at=added_at,
        seconds=seconds,
        expected_seconds=expected,
        **changes,
    )


def simulate(policy, loads, resources=ONE, **costs):
    given = {"start_seconds": 0.0, "stop_seconds": 0.0, **costs}
    return Simulation(POLICIES[policy], resources, **given).run(loads)


def count_overfull(bars, sizes):
    """Moments at which a group has more slots in use than it has."""
    num_overfull = 0
    for group, size in sizes.items():
        changes = sorted(
            (at, change)
            for bar in bars
            if bar.group == group
            for at, change in ((bar.start, bar.slots), (bar.end, -bar.slots))
        )
        num_overfull += int((np.cumsum([change for _, change in changes]) > size).sum())
    return num_overfull


def test_one_after_the_other_by_hand():
    found = simulate("round_robin", [load(1, 4, 0.0, 100.0), load(2, 4, 10.0, 50.0), load(3, 1, 20.0, 10.0)])
    assert found.makespan == 160.0
    assert found.waits.tolist() == [0.0, 90.0, 130.0]
    assert found.utilisation["slots"] == pytest.approx((400 + 200 + 10) / (4 * 160))
    assert found.slowdowns.tolist() == [1.0, 2.8, 14.0]


def test_every_start_costs_its_seconds():
    found = simulate("round_robin", [load(1, 4, 0.0, 100.0), load(2, 4, 0.0, 50.0)], start_seconds=20.0)
    assert found.makespan == 190.0
    assert found.waits.tolist() == [0.0, 120.0]


def test_a_backfilled_training_by_hand():
    # 2 needs all slots and waits for 1 until 100; 3 ends before that.
    loads = [load(1, 3, 0.0, 100.0), load(2, 4, 1.0, 100.0), load(3, 1, 2.0, 90.0)]
    assert simulate("resource_aware", loads).waits.tolist() == [0.0, 99.0, 0.0]
    assert simulate("round_robin", loads).waits.tolist() == [0.0, 99.0, 198.0]


def test_making_room_by_hand():
    # 2 comes at 40: 1 is asked, stops at 45, and goes on at 95 with a new start and 70 s of work.
    loads = [load(1, 4, 0.0, 100.0), load(2, 4, 40.0, 40.0, priority=1)]
    found = simulate("resource_aware", loads, start_seconds=10.0, stop_seconds=5.0)
    assert found.num_preempted == 1
    assert found.makespan == 45.0 + 50.0 + 10.0 + 65.0
    assert found.waits.tolist() == [50.0, 5.0]
    assert [bar.note for bar in found.bars] == ["preempted", "", ""]


def test_a_deadline_is_met_or_missed_by_hand():
    loads = [load(1, 4, 0.0, 100.0), load(2, 4, 0.0, 50.0, deadline=60.0)]
    assert simulate("deadline", loads).num_late == 0
    assert simulate("round_robin", loads).num_late == 1


def test_a_wrong_estimate_changes_the_order_and_not_the_time():
    loads = [load(1, 4, 0.0, 10.0), load(2, 4, 1.0, 90.0, expected_seconds=1.0), load(3, 4, 1.0, 20.0)]
    assert simulate("shortest_first", loads).waits.tolist() == [0.0, 9.0, 99.0]


def test_a_training_that_fits_nowhere_is_refused():
    with pytest.raises(
        ValueError, match=r"training 1 needs 5 slots.*, and no group of queue.resources is so large"
    ):
        simulate("static", [load(1, 5, 0.0, 10.0)])


@pytest.mark.parametrize("policy", POLICIES)
def test_every_training_ends_once_and_no_group_is_overfull(policy):
    loads = draw_load(MIXED, load=1.2, count=150, seed=3)
    found = simulate(policy, loads, MIXED, start_seconds=20.0, stop_seconds=5.0)
    ends = [bar.name for bar in found.bars if not bar.note]
    assert sorted(map(int, ends)) == list(range(1, 151))
    assert len(found.bars) == 150 + found.num_preempted
    assert count_overfull(found.bars, {name: whole.slots for name, whole in MIXED.items()}) == 0
    assert (found.waits > -1e-6).all()
    assert 0.2 < found.utilisation["slots"] <= 1.0


@pytest.mark.parametrize("seed", range(3))
def test_resource_aware_waits_a_fifth_less_than_round_robin_on_the_mixed_load(seed):
    loads = draw_load(MIXED, load=0.9, count=200, seed=seed)
    waits = {
        policy: simulate(policy, loads, MIXED, start_seconds=20.0).waits.mean()
        for policy in ("round_robin", "resource_aware")
    }
    assert waits["resource_aware"] < 0.8 * waits["round_robin"]


def test_the_deadline_policy_is_late_less_often():
    loads = draw_load(MIXED, load=0.9, count=200, seed=0)
    late = {policy: simulate(policy, loads, MIXED).num_late for policy in ("round_robin", "deadline")}
    assert late["deadline"] < late["round_robin"] / 2


def test_the_mixed_load_has_what_it_is_drawn_for():
    loads = draw_load(MIXED, load=0.5, count=2_000, seed=1)
    assert loads == draw_load(MIXED, load=0.5, count=2_000, seed=1)
    assert loads != draw_load(MIXED, load=0.5, count=2_000, seed=2)
    span = max(each.added_at for each in loads)
    total = np.sum([whole.parts() for whole in MIXED.values()], axis=0)
    work = np.sum([np.array(each.needs.parts()) * each.seconds for each in loads], axis=0)
    assert max(work / (total * span)) == pytest.approx(0.5, rel=0.02)
    assert 0.15 < np.mean([each.needs.gpus > 0 for each in loads]) < 0.25
    assert 0.25 < np.mean([math.isfinite(each.deadline) for each in loads]) < 0.35
    off = np.mean([abs(math.log(each.expected_seconds / each.seconds)) > 0.3 for each in loads])
    assert 0.27 < off < 0.37  # a third is beyond one standard deviation


def test_without_gpus_no_training_needs_one():
    assert all(each.needs.gpus == 0 for each in draw_load(ONE, load=0.9, count=100, seed=0))


def test_a_file_is_read_with_its_defaults():
    lines = [
        json.dumps({"added_at": 0, "seconds": 60, "slots": 2}),
        "",
        json.dumps({"added_at": 5, "seconds": 9, "slots": 1, "gpus": 0.5, "memory_gb": 3, "priority": 2}),
        json.dumps(
            {"added_at": 6, "seconds": 9, "slots": 1, "expected_seconds": 5, "deadline": 99, "group": "g"}
        ),
    ]
    first, second, third = read_load(lines, "mine.jsonl")
    assert (first.id, first.expected_seconds, first.deadline, first.group) == (1, 60.0, math.inf, None)
    assert (second.needs, second.priority) == (Amount(slots=1, gpus=0.5, memory_gb=3.0), 2)
    assert (third.expected_seconds, third.deadline, third.group) == (5.0, 99.0, "g")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "mine.jsonl, line 2: Expecting"),
        ("[]", "line 2: 'list' object"),
        ('{"added_at": 0, "seconds": 1}', "line 2: 'slots' is missing"),
        ('{"added_at": 0, "seconds": 1, "slots": 1, "cpus": 3}', "line 2: unknown key cpus"),
        ('{"added_at": 0, "seconds": 0, "slots": 1}', "line 2: training 2: seconds must be above 0"),
        (
            '{"added_at": 0, "seconds": 1, "slots": -1}',
            "line 2: slots must be a number of at least 0, got -1",
        ),
    ],
)
def test_a_wrong_line_is_named(line, fault):
    good = '{"added_at": 0, "seconds": 1, "slots": 1}'
    with pytest.raises(ValueError, match=fault):
        read_load([good, line], "mine.jsonl")


def test_an_empty_file_is_refused():
    with pytest.raises(
        ValueError, match=r"mine.jsonl has no trainings; a line is a JSON object with added_at"
    ):
        read_load(["", " "], "mine.jsonl")
