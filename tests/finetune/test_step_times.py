"""Step times: the clock with moments made by hand, reports of real trainings, and what the driver makes of
them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipelines.finetune.launch.world import assign_ranks
from pipelines.finetune.times import clock as clocks
from pipelines.finetune.times import parts
from pipelines.finetune.times.clock import StepClock, part, take_timed
from pipelines.finetune.times.meter import StepMeter, gather_hosts
from pipelines.finetune.times.parts import IN_STEPS, PARTS, make_metrics, read_reports
from pipelines.finetune.worker import train_rank
from tests.finetune.data import make_training
from tests.finetune.ranks import alone


class Moments:
    """A timer whose moments the test says; like events of a GPU they are known later, if `known` says so."""

    def __init__(self):
        self.now, self.known = 0.0, float("inf")

    def mark(self):
        return self.now

    def is_known(self, mark):
        return mark <= self.known

    def seconds_between(self, first, second):
        return second - first


def spend(timer, seconds):
    timer.now += seconds


def seconds_of(clock):
    return {name: value for name, value in clock.read().items() if value}


@pytest.fixture
def timer():
    return Moments()


@pytest.fixture
def clock(timer):
    clock = StepClock(timer)
    with clocks.measure(clock):
        yield clock


def test_an_inner_part_interrupts_the_outer_one(timer, clock):
    spend(timer, 1)
    with part("optimizer"):
        spend(timer, 2)
        with part("communication"):
            spend(timer, 4)
        spend(timer, 8)
    spend(timer, 16)
    assert seconds_of(clock) == {"other": 17, "optimizer": 10, "communication": 4}
    spend(timer, 32)
    assert seconds_of(clock) == {"other": 32}  # since the last read


@pytest.mark.parametrize("outer", ["evaluation", "checkpoint"])
def test_waits_inside_an_evaluation_are_its_own(timer, clock, outer):
    with part(outer), part("communication"), part("data"):
        spend(timer, 3)
    assert seconds_of(clock) == {outer: 3}


def test_a_part_ends_with_its_error(timer, clock):
    def fail():
        with part("forward_backward"):
            spend(timer, 1)
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    spend(timer, 2)
    assert seconds_of(clock) == {"forward_backward": 1, "other": 2}


def test_items_are_timed_while_they_are_made_and_no_longer(timer, clock):
    def make():
        for number in range(3):
            spend(timer, 10)
            yield number

    for _ in take_timed(make(), "data"):
        spend(timer, 1)
    assert seconds_of(clock) == {"data": 30, "other": 3}


def test_moments_that_are_not_known_yet_are_read_later(timer, clock):
    with part("data"):
        spend(timer, 1)
    timer.known = 1.0  # the GPU is this far
    with part("optimizer"):
        spend(timer, 2)
    assert seconds_of(clock) == {"data": 1}
    timer.known = 3.0
    assert seconds_of(clock) == {"optimizer": 2}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_clock_of_a_gpu_waits_for_nothing():
    on_gpu = clocks.make_clock(torch.device("cuda"))
    with clocks.measure(on_gpu), part("forward_backward"):
        torch.cuda._sleep(10**9)  # about half a second of the GPU
    assert on_gpu.read()["forward_backward"] == 0  # not done
    torch.cuda.synchronize()
    assert on_gpu.read()["forward_backward"] > 0.1


def test_without_a_clock_nothing_is_measured(timer):
    clock = StepClock(timer)
    with part("data"):
        spend(timer, 1)
    assert seconds_of(clock) == {"other": 1}


class TwoRanks:
    """The sums of two ranks, of which the other one added `others`."""

    data_rank, num_replicas = 1, 2

    def __init__(self, others):
        self.others, self.names = list(others), []

    def sum(self, value, *, name):
        self.names.append(name)
        return value + self.others.pop(0)


def test_times_travel_with_the_loss_of_logged_steps(timer, clock):
    other = torch.zeros(2, len(PARTS) + 3 + 1, dtype=torch.float64)
    other[0, 0], other[0, -1] = 7.0, float("nan")  # data; what it can't measure
    strategy = TwoRanks([0.5, torch.cat([torch.tensor([0.25]).double(), other.reshape(-1)])])
    meter = StepMeter(
        clock,
        strategy,
        log_every_steps=2,
        count=lambda rows: (int(rows.sum()), 100.0),
        peak_flops=None,
        hosts=["a", "b"],
        names=("cpu",),
        measure=lambda: {"cpu": 12.5},
    )
    share = torch.tensor([1.0], dtype=torch.float64)
    meter.count(0, np.array([3, 4]))
    assert meter.sum(share).tolist() == [1.5]
    assert meter.take_report() is None
    with part("optimizer"):
        spend(timer, 2)
    meter.count(1, np.array([5]))
    assert meter.sum(share).tolist() == [1.25]
    report = meter.take_report()
    assert meter.take_report() is None
    assert report["seconds"] == {part: [0.0, 0.0] for part in PARTS} | {
        "data": [7.0, 0.0],
        "optimizer": [0.0, 2.0],
    }
    assert report["num_tokens"] == [0.0, 12.0]
    assert report["flops"] == [0.0, 200.0]
    assert report["hosts"] == ["a", "b"]
    assert report["system"] == [{}, {"cpu": 12.5}]
    assert len(strategy.names) == 2  # no message of its own


def test_hosts_are_known_by_rank():
    names = ["node-1.example", "10.0.0.12"]
    codes = torch.zeros(2, 64)
    codes[0, : len(names[0])] = torch.tensor(list(names[0].encode()))
    assert gather_hosts(TwoRanks([codes]), names[1]) == names


def report(num_ranks=2, **changes):
    """Of ranks that spent 8 s: 1 data, 4 forward and backward, 2 communication, 1 optimizer, and 2 s more in
    an evaluation."""
    each = dict.fromkeys(PARTS, 0.0) | {
        "data": 1.0,
        "forward_backward": 4.0,
        "communication": 2.0,
        "optimizer": 1.0,
        "evaluation": 2.0,
    }
    return {
        "seconds": {part: [value] * num_ranks for part, value in each.items()},
        "num_tokens": [600.0] * num_ranks,
        "flops": [8e12] * num_ranks,
        "peak_flops": [2e12] * num_ranks,
        "hosts": ["node1", "node2"] * (num_ranks // 2),
        **changes,
    }


def test_metrics_of_a_report_by_hand():
    metrics = make_metrics(report(num_tokens=[600.0, 300.0]))
    assert metrics["time/evaluation"] == pytest.approx(0.2)
    assert sum(metrics[f"time/{part}"] for part in PARTS) == pytest.approx(1)
    assert metrics["train/communication_share"] == pytest.approx(2 / 8)
    assert metrics["train/mfu"] == pytest.approx(0.5)  # 8e12 FLOPs in 8 s at 2e12 per second
    assert metrics["rank_0/tokens_per_second"] == pytest.approx(100)  # in 6 s of its own work
    assert metrics["rank_1/tokens_per_second"] == pytest.approx(50)


@pytest.mark.parametrize("peaks", [[2e12, 0.0], [0.0, 0.0]])
def test_utilisation_is_left_out_where_a_peak_is_not_known(peaks):
    assert "train/mfu" not in make_metrics(report(peak_flops=peaks))


def test_a_report_without_steps_gives_no_metrics():
    assert make_metrics(report(num_tokens=[0.0, 0.0])) == {}


def test_of_many_ranks_the_slowest_has_metrics():
    num_ranks = parts.MOST_RANKS + 2
    tokens = [600.0] * num_ranks
    tokens[5] = 60.0
    metrics = make_metrics(report(num_ranks, num_tokens=tokens))
    assert metrics["rank_slowest/number"] == 5
    assert metrics["rank_slowest/tokens_per_second"] == pytest.approx(10)
    assert not [name for name in metrics if name.startswith("rank_0")]


def test_each_host_has_system_metrics_once():
    system = [{"cpu": 10.0}, {"cpu": 20.0}, {"cpu": 11.0, "gpu_1_memory": 5.0}, {"cpu": 21.0}]
    metrics = make_metrics(report(4, system=system))
    found = {name: value for name, value in metrics.items() if name.startswith("system")}
    assert found == {"system/node1/cpu": 10.0, "system/node1/gpu_1_memory": 5.0, "system/node2/cpu": 20.0}


def test_a_training_reports_its_times(root):
    training = make_training(
        root,
        num_epochs=0.7,
        log_every_steps=3,
        peak_tflops=0.001,
        evaluate_every_steps=4,
        system_metrics=True,
    )
    train_rank(training, alone())  # 7 steps
    reports = read_reports(training.folder)
    assert [(each["step"], each.get("split")) for each in reports] == [(3, None), (6, None), (7, "end")]
    totals = {part: sum(each["seconds"][part][0] for each in reports) for part in PARTS}
    busy = {part for part, seconds in totals.items() if seconds > 0}
    assert busy == {*PARTS} - {"communication"}
    assert reports[1]["seconds"]["evaluation"][0] > 0  # after step 4
    assert reports[0]["seconds"]["evaluation"][0] == 0
    tokens = [sum(each["num_tokens"]) for each in reports]
    assert all(tokens)
    assert reports[0]["hosts"] == ["127.0.0.1"]
    metrics = make_metrics(reports[0])
    assert metrics["train/communication_share"] == 0
    assert metrics["train/mfu"] > 0
    assert 0 < metrics["system/127.0.0.1/system_memory_usage_percentage"] <= 100


def test_the_parts_of_a_training_are_all_of_its_time(root, monkeypatch):
    ticks = iter(range(10**9))
    monkeypatch.setattr(clocks.HostTimer, "mark", lambda self: float(next(ticks)))
    training = make_training(root, num_epochs=0.5, log_every_steps=5)
    train_rank(training, alone())
    found = read_reports(training.folder)
    seconds = sum(sum(each["seconds"][part][0] for part in PARTS) for each in found)
    first = 1  # the moment in which the clock was made, then the read at the start of the loop
    assert seconds == next(ticks) - 1 - first
    assert sum(found[0]["seconds"][part][0] for part in IN_STEPS) > 0


def test_reports_of_an_earlier_version_are_none(tmp_path):
    (tmp_path / "events").mkdir()
    event = {"kind": "step", "step": 1}
    (tmp_path / "events/1.jsonl").write_text(json.dumps(event) + "\n")
    assert read_reports(str(tmp_path)) == []


def test_replicas_that_hold_nothing_alike_are_not_compared_in_silence(root, monkeypatch):
    from pipelines.finetune.times.view import StepView

    training = make_training(root, compare_replicas_every_steps=5)
    strategy = SimpleNamespace(num_replicas=2, replicated=lambda: iter(()))
    world = assign_ranks(["a", "b"], [None, None])[0]
    with pytest.raises(ValueError, match=r"is 5, but under strategy auto no rank holds .* set it to null"):
        StepView(training, strategy, world, None, None, None)
