"""Early stopping: when it stops, and that a resumed training and other numbers of ranks stop there too."""

import json
import math
from dataclasses import replace

import pytest

from pipelines.finetune.best import is_over, judge_evaluation
from pipelines.finetune.checkpoint.format import TrainState, read_record
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.results import display_result
from pipelines.finetune.training import Cadence
from pipelines.finetune.worker import train_rank
from pipelines.metrics import METRICS
from pipelines.storage import Folder
from tests.finetune.data import WITHOUT_DROPOUT, make_training
from tests.finetune.ranks import alone, run_processes
from tests.finetune.test_train import read_events, train_in

DIVERGING = {"learning_rate": 0.3, "warmup_fraction": 1.0, "num_epochs": 2.0, "evaluate_every_steps": 2}
"""A rate that grows through the whole training: it soon gets worse."""


def stopping(after, min_gain=0.0):
    return Cadence(
        evaluate_every_steps=1,
        checkpoint_every_steps=1,
        log_every_steps=1,
        stop_after_evaluations=after,
        stop_min_gain=min_gain,
    )


def judge(values, cadence, metric="loss"):
    """(best step, step after which training stops or None) of the values of steps 1, 2, ..., which may be
    pairs with what decides between equal ones."""
    state = TrainState()
    for step, value in enumerate(values, 1):
        pair = value if isinstance(value, tuple) else (value, None)
        state = judge_evaluation(replace(state, step=step), pair[0], METRICS[metric], cadence, pair[1])
        if is_over(state, cadence):
            return state.best_step, step
    return state.best_step, None


NAN = math.nan
COURSES = [
    ("loss", [3, 2, 1], 1, 0.0, (3, None)),
    ("loss", [3, 2, 2, 1], 1, 0.0, (2, 3)),  # a tie is no gain
    ("loss", [3, 2, 2.5, 1.9, 2, 2, 2], 2, 0.0, (4, 6)),  # a gain starts the count again
    ("accuracy", [0.5, 0.6, 0.6, 0.7, 0.6, 0.6], 2, 0.0, (4, 6)),  # higher is better
    ("loss", [3, 2.9, 2.8, 2.7], 2, 0.5, (3, 3)),  # small gains: the best is the last one all the same
    ("loss", [3, 2.9, 2.4, 2.3, 2.2], 2, 0.5, (5, 5)),  # but they add up: 2.4 is 0.6 below 3
    ("loss", [NAN, 2, 1], 2, 0.0, (3, None)),
    ("loss", [NAN, NAN, 1], 2, 0.0, (2, 2)),
    ("loss", [3, NAN, NAN], 2, 0.0, (1, 3)),
    ("mrr", [0.5, 0.6, math.inf], None, 0.0, (2, None)),  # no better than a number
    ("loss", [3, 2, -math.inf], None, 0.0, (2, None)),
    ("loss", [3, 4, 5, 6, 7], None, 0.0, (1, None)),
    ("micro_f1", [(0, 0.7), (0, 0.6), (0, 0.5), (0.1, 0.6), (0.1, 0.6)], 1, 0.2, (4, 4)),  # of ties, the loss
    ("micro_f1", [(0, 0.7), (0, 0.6), (0, NAN), (0, 0.6), (0, 0.5)], 3, 0.0, (5, None)),
    ("micro_f1", [(0.2, 0.7), (0.1, 0.1), (0.2, 0.8)], 2, 0.0, (1, 3)),  # of ties alone
    ("accuracy", [(0, 0.7), (0, 0.6), (0, 0.5)], 2, 0.0, (1, 3)),  # no other metric has this
]


@pytest.mark.parametrize(("metric", "values", "after", "min_gain", "expected"), COURSES)
def test_training_stops_when_nothing_is_gained(metric, values, after, min_gain, expected):
    assert judge(values, stopping(after, min_gain), metric) == expected


@pytest.mark.parametrize(
    ("after", "min_gain", "message"),
    [
        (0, 0.0, "stop_after_evaluations must be at least 1 or null, got 0"),
        (3, -0.1, "stop_min_gain must be at least 0, .*got -0.1"),
        (None, 0.1, "and 0 while stop_after_evaluations is null, got 0.1"),
    ],
)
def test_limits_that_mean_nothing_are_refused(after, min_gain, message):
    with pytest.raises(ValueError, match=message):
        stopping(after, min_gain)


def values_of(folder):
    evaluations = [each for each in read_events(folder) if each["kind"] == "evaluation"]
    return {each["step"]: each["accuracy"] for each in evaluations if each["split"] == "validation"}


def test_a_stopped_training_exports_its_best_weights(root):
    training = make_training(root, **DIVERGING, stop_after_evaluations=2)
    result = train_rank(training, alone())
    values = values_of(root / "run")
    assert result["total_steps"] == max(values) < result["planned_steps"] == 20
    assert result["best_step"] == result["total_steps"] - 4  # two evaluations of two steps each
    assert result["best_value"] == max(values.values())
    events = read_events(root / "run")
    assert max(event["step"] for event in events if event["kind"] == "step") == result["total_steps"]
    assert any("no gain in 2 evaluations" in event["text"] for event in events if event["kind"] == "warning")
    steps = f"{result['total_steps']} of 20, stopped early"
    assert display_result(result)["steps"] == steps


def test_the_steps_before_the_stop_are_those_of_a_whole_training(root):
    for name, after in (("whole", None), ("stopped", 2)):
        train_rank(
            make_training(root, folder=str(root / name), **DIVERGING, stop_after_evaluations=after), alone()
        )
    whole, stopped = values_of(root / "whole"), values_of(root / "stopped")
    assert len(stopped) < len(whole) == 10
    assert stopped == {step: whole[step] for step in stopped}


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_an_interrupted_training_stops_at_the_same_step(root, monkeypatch, saves):
    """Interrupted after every `saves` checkpoints; the last one is of a training that is over."""
    expected = train_rank(
        make_training(root, folder=str(root / "whole"), **DIVERGING, stop_after_evaluations=2), alone()
    )
    training = make_training(root, **DIVERGING, stop_after_evaluations=2)
    save, count = SingleProcess.save, []

    def save_and_fail(self, checkpoints, state):
        save(self, checkpoints, state)
        count.append(state.step)
        if len(count) % saves == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(SingleProcess, "save", save_and_fail)
    for _ in range(20):
        try:
            found = train_rank(training, alone())
            break
        except KeyboardInterrupt:
            continue
    assert len(count) > saves
    assert found == expected
    assert max(count) == expected["total_steps"]  # no step after the stop


def test_a_training_without_its_best_checkpoint_still_finishes(root):
    """With the weights that are left, and with their value."""
    training = make_training(root, **DIVERGING, stop_after_evaluations=2)
    first = train_rank(training, alone())
    assert first["best_step"] < first["total_steps"]
    Folder(str(root / "run" / "checkpoints")).delete(f"step-{first['best_step']:08d}")
    (root / "run" / "result.json").unlink()
    found = train_rank(training, alone())
    assert found["total_steps"] == found["best_step"] == first["total_steps"]
    assert found["best_value"] == values_of(root / "run")[first["total_steps"]]
    assert found["weights"] != first["weights"]


def test_a_checkpoint_of_an_earlier_version_is_read(root):
    train_rank(make_training(root, num_epochs=0.7), alone())
    checkpoints = Folder(str(root / "run" / "checkpoints"))
    place = "step-00000007/complete.json"
    content = json.loads(checkpoints.read(place))
    files = {kind: content["files"][kind] for kind in ("sha256", "pieces")}
    record = {"format": 3, "state": content["state"], "base": None, **files}
    for name in ("last_gain_value", "num_without_gain"):
        del record["state"][name]
    checkpoints.write(place, json.dumps(record).encode())
    state = read_record(checkpoints, 7).state
    assert (state.step, state.last_gain_value, state.num_without_gain) == (7, None, 0)


def test_the_identity_names_the_stopping(root):
    base = make_training(root).identity()
    assert "stopping" not in base
    changes = [{"stop_after_evaluations": 2}, {"stop_after_evaluations": 2, "stop_min_gain": 0.1}]
    found = [make_training(root, **change).identity() for change in changes]
    assert found[0] != found[1] != base != found[0]


@pytest.mark.slow
def test_two_ranks_stop_at_the_step_of_one(root):
    one, two = (
        make_training(
            root,
            folder=str(root / name),
            config=WITHOUT_DROPOUT,
            collectives="torch",
            stop_after_evaluations=2,
            **DIVERGING,
        )
        for name in ("one", "two")
    )
    expected = train_rank(one, alone())
    found = run_processes(train_in, two, num_ranks=2, backend="torch")[0]
    assert found["total_steps"] == expected["total_steps"] < 20
    assert found["best_step"] == expected["best_step"]
