"""The running mean of the weights: its values, what uses it; strategies and resumed trainings agree."""

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.finetune.average import WeightAverage
from pipelines.finetune.checkpoint.format import MODEL_FILE, Piece, TrainState, complete_steps, read_record
from pipelines.finetune.checkpoint.reading import read_file
from pipelines.finetune.models.folder import load_model
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.parallel import buckets
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune.data import make_training
from tests.finetune.ranks import SOAK_FULLY_SHARDED, alone, run_processes
from tests.finetune.test_strategies import STEPS, assert_equal, double_training, run_steps

DECAY = 0.8


@pytest.fixture(scope="module", autouse=True)
def restore_settings():
    yield
    buckets.BUCKET_BYTES = 8 * 2**20


def average_of(weight, decay):
    return WeightAverage({Piece("w", 0, weight.numel()): weight}, Optimization(ema_decay=decay))


def test_the_mean_of_four_steps_by_hand():
    weight = nn.Parameter(torch.tensor([100.0], dtype=torch.float64))
    average = average_of(weight, 0.5)
    average.begin(TrainState())
    means = []
    for value in (8.0, 4.0, 6.0, 2.0):
        weight.data.fill_(value)
        average.update()
        assert average.show(mean=True)
        means.append(weight.item())
        assert average.show(mean=False)
        assert weight.item() == value
    # The 100 before the first step has no part. 4: (4 + 8/2) / 1.5; 6: (6 + 4/2 + 8/4) / 1.75;
    # 2: (2 + 6/2 + 4/4 + 8/8) / 1.875.
    assert means == pytest.approx([8.0, 16 / 3, 40 / 7, 56 / 15], abs=1e-15)


def test_without_a_decay_nothing_is_held():
    weight = nn.Parameter(torch.ones(2))
    average = average_of(weight, None)
    average.begin(TrainState())
    average.update()
    assert not average.show(mean=True)
    assert list(average.tensors()) == []
    assert average.add_to({Piece("w", 0, 2): {}}) == {Piece("w", 0, 2): {}}


def test_a_checkpoint_without_the_mean_is_refused():
    average = average_of(nn.Parameter(torch.ones(2)), 0.9)
    with pytest.raises(
        ValueError, match=r"no average of w: .* without finetune.optimization.ema_decay; train in"
    ):
        average.take_from({Piece("w", 0, 2): {"step": torch.ones(())}})


@pytest.fixture
def history(monkeypatch):
    """The weights after each step, by name."""
    found, update = [], WeightAverage.update

    def record(self):
        found.append({piece.name: each.detach().clone() for piece, each in self._weights.items()})
        update(self)

    monkeypatch.setattr(WeightAverage, "update", record)
    return found


def compute_mean(history):
    factors = [DECAY ** (len(history) - 1 - step) for step in range(len(history))]
    return {
        name: sum(factor * weights[name].double() for factor, weights in zip(factors, history, strict=True))
        / sum(factors)
        for name in history[0]
    }


def test_evaluations_and_the_model_use_the_mean(root, history, monkeypatch):
    seen, forward = [], SingleProcess.forward

    def spy(self, batch):
        outputs = forward(self, batch)
        seen.append((len(history), {name: each.clone() for name, each in self._model.named_parameters()}))
        return outputs

    monkeypatch.setattr(SingleProcess, "forward", spy)
    training = make_training(root, num_epochs=2.0, ema_decay=DECAY)
    result = train_rank(training, alone())
    assert len(history) == 20
    evaluated = {num_steps for num_steps, _ in seen}
    assert evaluated == {0, 10, 20}
    for num_steps, weights in seen[:-2]:  # the last ones are of the best step
        if num_steps:
            for name, mean in compute_mean(history[:num_steps]).items():
                assert (weights[name].double() - mean).abs().max() < 1e-5, name
    exported = dict(load_model(root / "run" / "model").module.named_parameters())
    for name, mean in compute_mean(history[: result["best_step"]]).items():
        assert (exported[name].double() - mean).abs().max() < 1e-5, name
        assert (history[result["best_step"] - 1][name] - mean).abs().max() > 0, name


def test_the_mean_does_not_change_the_training(root, history):
    curves = [
        run_steps(alone(), double_training(root, name, ema_decay=decay))["curve"]
        for name, decay in (("plain", None), ("mean", DECAY))
    ]
    assert (curves[0] == curves[1]).all()


@pytest.mark.parametrize("steps", [1, 7, 10])
def test_a_resumed_mean_is_bitwise_that_of_one_run(root, steps):
    whole = run_steps(alone(), double_training(root, "whole", ema_decay=DECAY))
    training = double_training(root, "parts", ema_decay=DECAY)
    run_steps(alone(), training, range(steps))
    rest = run_steps(alone(), training, range(steps, STEPS))
    assert rest["began"] == steps
    assert (rest["curve"] == whole["curve"][steps:]).all()
    assert all((rest["weights"][name] == weights).all() for name, weights in whole["weights"].items())


def test_the_model_of_a_checkpoint_is_the_mean(root, history):
    training = double_training(root, "run", ema_decay=DECAY)
    run_steps(alone(), training, range(3))
    checkpoints = Folder(training.folder) / "checkpoints"
    model = read_file(checkpoints, read_record(checkpoints, complete_steps(checkpoints)[0]), MODEL_FILE)
    for name, mean in compute_mean(history[:3]).items():
        assert (model[name] - mean).abs().max() < 1e-14, name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["data_parallel", "sharded_optimizer", SOAK_FULLY_SHARDED])
def test_the_mean_of_two_ranks_is_that_of_one(root, strategy):
    one = run_steps(alone(), double_training(root, "one", ema_decay=DECAY))
    training = double_training(root, "two", ema_decay=DECAY, strategy=strategy, collectives="torch")
    assert_equal(run_processes(run_steps, training, num_ranks=2, backend="torch")[0], one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        ("sharded_optimizer", "data_parallel"),
        ("data_parallel", "sharded_optimizer"),
        pytest.param(("fully_sharded", "sharded_optimizer"), marks=pytest.mark.soak),
        pytest.param(("data_parallel", "fully_sharded"), marks=pytest.mark.soak),
    ],
)
def test_a_mean_continues_under_another_strategy(root, change):
    one = run_steps(alone(), double_training(root, "one", ema_decay=DECAY))
    for strategy, steps in zip(change, (range(9), range(9, STEPS)), strict=True):
        training = double_training(root, "both", ema_decay=DECAY, strategy=strategy, collectives="torch")
        found = run_processes(run_steps, training, steps, num_ranks=2, backend="torch")[0]
        assert found["began"] == steps.start
    assert_equal(found, one)
    assert np.isfinite(found["curve"]).all()
