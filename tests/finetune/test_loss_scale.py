"""Training in float16: the loss scale, skipped steps, and that all of it is resumed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from pipelines.dataset.reader import open_split
from pipelines.finetune import loss_scale
from pipelines.finetune.checkpoint.format import TrainState, complete_steps, read_record
from pipelines.finetune.driver import step_metrics
from pipelines.finetune.loss_scale import UNSCALED, LossScale, find_loss_scale
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.lora import read_state
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.parallel.table import build_strategy
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune.checkpoints import save
from tests.finetune.data import VOCABULARY, WITHOUT_DROPOUT, make_training
from tests.finetune.ranks import SOAK_FULLY_SHARDED, alone, run_processes
from tests.finetune.test_precision import run_backward
from tests.finetune.test_strategies import assert_equal, double_training, run_steps

TOO_HIGH = 2.0**28
"""float16 ends at 2^16: the first steps overflow."""


def test_the_scale_follows_the_rule_of_torch(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", growth_interval=3)
    ours = find_loss_scale("float16", TrainState())
    flags = [True] * 4 + [False, True, False, False] + [True] * 7
    for is_finite in flags:
        assert ours.value == (scaler.get_scale() if scaler.get_scale() else 0)
        parameter.grad = None
        loss = scaler.scale(parameter.sum() * (1.0 if is_finite else math.inf))
        loss.backward()
        scaler.step(optimizer)
        scaler.update()
        assert ours.update(is_finite=is_finite)
    assert ours.value == scaler.get_scale()
    assert ours.num_skipped == 3


def test_other_precisions_need_no_scale():
    for precision in ("float32", "bfloat16"):
        assert find_loss_scale(precision, TrainState()) is UNSCALED
    assert UNSCALED.update(is_finite=True)
    assert not UNSCALED.update(is_finite=False)
    assert LossScale(1.0, is_dynamic=False) == UNSCALED
    assert UNSCALED.keep_in(TrainState(step=3)) == TrainState(step=3)


def test_layers_compute_in_float16_and_gradients_are_float32(root):
    training = make_training(root, config=WITHOUT_DROPOUT)
    plain, _, _ = run_backward(training, "float32")
    outputs, gradients, types = run_backward(training, "float16")
    assert types == {torch.float16}
    assert outputs.dtype == torch.float32
    assert {each.dtype for each in gradients.values()} == {torch.float32}
    # float16 has 11 bits: a relative error of 2^-11 per rounding, over some twenty of them.
    assert 0 < (outputs - plain).abs().max() < 0.01 * plain.abs().max()


def watch_steps(monkeypatch):
    """(weights changed, norm) of every step from now on."""
    seen, step = [], SingleProcess.step

    def watch(self, **settings):
        before = [each.detach().clone() for each in self._model.parameters()]
        norm = step(self, **settings)
        pairs = zip(before, self._model.parameters(), strict=True)
        seen.append((any(not torch.equal(*pair) for pair in pairs), norm))
        return norm

    monkeypatch.setattr(SingleProcess, "step", watch)
    return seen


def test_steps_that_overflow_change_nothing_and_count(root, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", TOO_HIGH)
    seen = watch_steps(monkeypatch)
    training = make_training(root, precision="float16", num_epochs=4.0)
    result = train_rank(training, alone())
    skipped = [not math.isfinite(norm) for _, norm in seen]
    assert 3 < sum(skipped) < 20
    assert skipped == sorted(skipped, reverse=True)  # first those with too high a scale
    assert [changed for changed, _ in seen] == [not each for each in skipped]
    checkpoints = Folder(training.folder) / "checkpoints"
    state = read_record(checkpoints, complete_steps(checkpoints)[0]).state
    assert (state.step, state.num_skipped, state.num_skipped_in_row) == (len(seen), sum(skipped), 0)
    assert state.loss_scale == TOO_HIGH / 2 ** sum(skipped)
    assert state.num_since_scale_change == len(seen) - sum(skipped)
    assert result["total_steps"] == len(seen) == 40
    assert result["after"]["accuracy"] > result["before"]["accuracy"] + 0.2


def test_a_stop_between_skipped_steps_changes_no_bit(root, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", TOO_HIGH)
    settings = {"precision": "float16", "ema_decay": 0.8}
    whole = train_rank(make_training(root, folder=str(root / "whole"), **settings), alone())
    training, save, stopped = make_training(root, **settings), SingleProcess.save, []

    def save_and_fail(self, checkpoints, state):
        save(self, checkpoints, state)
        if state.step in (7, 14) and state.step not in stopped:
            stopped.append(state.step)
            raise KeyboardInterrupt

    monkeypatch.setattr(SingleProcess, "save", save_and_fail)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_rank(training, alone())
    assert train_rank(training, alone()) == whole
    state = read_record(Folder(training.folder) / "checkpoints", 28).state
    assert state == read_record(Folder(str(root / "whole")) / "checkpoints", 28).state
    assert state.num_skipped > 7  # one stop was between skipped steps


def average_steps(root, name, overflows):
    """The mean after one step per flag, of which those that overflow are skipped; resumed before the last."""
    training = make_training(root, folder=str(root / name), config=WITHOUT_DROPOUT, ema_decay=0.5)
    data, task, state = training.data, build_task(training.spec), TrainState()
    reader = open_split("/no/table", table_id=data.table_id, version=data.version, split="train")
    for is_last in (False, True):
        strategy = open_strategy(alone(), training)
        for overflow in overflows[-1:] if is_last else overflows[:-1]:
            rows = np.arange(4) + (100 if overflow else 4 * (state.step - state.num_skipped))
            batch = task.collate(reader.rows(rows), strategy.device)
            strategy.forward_backward([batch], task, num_targets=0.0 if overflow else 4.0)
            norm = strategy.step(max_norm=1.0, learning_rate=0.1, loss_scale=2.0)
            assert math.isfinite(norm) is not overflow
            state = replace(state, step=state.step + 1, num_skipped=state.num_skipped + overflow)
        save(strategy, Folder(training.folder) / "checkpoints", state)
    return read_weights(strategy.export())


def test_a_skipped_step_has_no_part_in_the_mean(root):
    expected = average_steps(root, "without", [False, False, False])
    for name, overflows in {
        "between": [False, True, False, False],
        "before the stop": [False, False, True, True, False],
        "first": [True, False, False, False],
    }.items():
        found = average_steps(root, name, overflows)
        assert all(np.array_equal(found[each], expected[each]) for each in expected), name


def test_too_many_skipped_steps_end_the_training(root, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**900)
    rule = r"after 20 skipped steps in a row that lowered the loss scale; set finetune.precision=bfloat16 or"
    with pytest.raises(FloatingPointError, match=rule):
        train_rank(make_training(root, precision="float16"), alone())


def test_a_skipped_step_leaves_no_point_that_is_not_a_number():
    event = {
        "loss": math.nan,
        "gradient_norm": math.inf,
        "learning_rate": 0.1,
        "num_tokens": 30,
        "seconds": 2,
    }
    points = step_metrics({**event, "loss_scale": 1024.0, "num_skipped": 3})
    assert points == {
        "train/learning_rate": 0.1,
        "train/tokens_per_second": 15.0,
        "train/loss_scale": 1024.0,
        "train/skipped_steps": 3,
    }


def open_strategy(world, training):
    """Built, at its newest checkpoint."""
    strategy = build_strategy(world, training.execution)

    def build(load_weights):
        return build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=0)

    checkpoints = Folder(training.folder) / "checkpoints"
    strategy.build(build, training.optimization, num_micro_batches=1, checkpoints=checkpoints)
    return strategy


def step_twice(world, training):
    """The gradient of the last rank overflows in the first of two steps: whether norms are finite, and the
    weights before, between and after."""
    strategy = open_strategy(world, training)
    task, data = build_task(training.spec), training.data
    reader = open_split("/no/table", table_id=data.table_id, version=data.version, split="train")
    batch = task.collate(reader.rows(np.arange(4)), strategy.device)
    norms, weights = [], [read_weights(strategy._model)]
    for num_targets in (0.0 if world.rank == world.world_size - 1 else 4.0, 4.0):
        strategy.forward_backward([batch], task, num_targets=num_targets)
        norms.append(strategy.step(max_norm=1.0, learning_rate=0.1, loss_scale=2.0))
        weights.append(read_weights(strategy._model))
    return [math.isfinite(norm) for norm in norms], weights


def read_weights(model):
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).numpy().copy()
        for name, tensor in read_state(model).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["data_parallel", "sharded_optimizer", SOAK_FULLY_SHARDED])
def test_all_ranks_skip_the_step_in_which_one_overflows(root, strategy):
    training = make_training(root, config=WITHOUT_DROPOUT, strategy=strategy, collectives="torch")
    ranks = run_processes(step_twice, training, num_ranks=2, backend="torch")
    for is_finite, (start, skipped, after) in ranks:
        assert is_finite == [False, True]
        assert all(np.array_equal(start[name], skipped[name]) for name in start)
        assert not all(np.array_equal(start[name], after[name]) for name in start)
        assert all(np.array_equal(after[name], ranks[0][1][2][name]) for name in after)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["single", "data_parallel", "sharded_optimizer", SOAK_FULLY_SHARDED])
def test_a_scale_that_fits_changes_no_digit(root, strategy):
    """Powers of two scale without rounding; norms and clipping are those of the gradient itself."""
    expected = run_steps(alone(), double_training(root, "plain"))
    scale = LossScale(2.0**16, is_dynamic=True)
    if strategy == "single":
        found = run_steps(alone(), double_training(root, "scaled"), scale=scale)
        assert np.array_equal(found["curve"], expected["curve"])
    else:
        training = double_training(root, "scaled", strategy=strategy, collectives="torch")
        found = run_processes(run_scaled, training, scale, num_ranks=2, backend="torch")[0]
    assert_equal(found, expected)


def run_scaled(world, training, scale):
    return run_steps(world, training, scale=scale)
