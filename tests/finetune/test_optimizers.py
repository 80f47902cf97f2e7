"""Adafactor and Muon: updates by their formulas, which parameters get which, and exact resume."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.finetune.models.build import build_model
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import build_optimizer, list_trainable, set_learning_rate
from pipelines.finetune.parallel import buckets
from pipelines.finetune.parallel.rules import require_supported
from pipelines.finetune.worker import train_rank
from tests.finetune.data import VOCABULARY, make_training
from tests.finetune.ranks import alone, run_processes
from tests.finetune.test_strategies import STEPS, assert_equal, double_training, run_steps
from tests.finetune.test_token_losses import TIED, UNTIED

MATRIX = np.array([[3.0, -1.0, 2.0], [0.5, 4.0, -2.5]])
GRADIENTS = (np.array([[1.0, 2.0, -1.0], [0.5, -0.25, 3.0]]), np.array([[-2.0, 1.0, 0.5], [1.5, 1.0, 0.1]]))


@pytest.fixture(scope="module", autouse=True)
def restore_settings():
    yield
    buckets.BUCKET_BYTES = 8 * 2**20


class Layer(nn.Module):
    """One matrix, in float64."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(MATRIX))


def update(name, **settings):
    """The matrix after both gradients."""
    model = Layer()
    optimizer = build_optimizer(
        list_trainable(model), Optimization(optimizer=name, learning_rate=0.1, weight_decay=0.2, **settings)
    )
    for gradient in GRADIENTS:
        set_learning_rate(optimizer, 0.1)
        model.weight.grad = torch.tensor(gradient)
        optimizer.step()
    return model.weight.detach().numpy()


def test_adafactor_follows_its_paper():
    """Algorithm 4 of Shazeer and Stern 2018, in NumPy; the decay is that of AdamW."""
    weight, rows, columns = MATRIX.copy(), np.zeros((2, 1)), np.zeros((1, 3))
    for step, gradient in enumerate(GRADIENTS, 1):
        share = step**-0.8
        rate = max(1e-3, np.sqrt((weight**2).mean())) * min(0.1, step**-0.5)
        weight *= 1 - 0.1 * 0.2
        rows += share * ((gradient**2).mean(1, keepdims=True) - rows)
        columns += share * ((gradient**2).mean(0, keepdims=True) - columns)
        change = gradient / np.sqrt(rows @ columns / rows.mean())
        weight -= rate * change / max(1.0, np.sqrt((change**2).mean()))
    assert np.abs(update("adafactor") - weight).max() < 1e-12


def test_muon_moves_a_matrix_by_an_orthogonal_one():
    """The momentum's singular values become about 1 (0.7 to 1.2, Jordan 2024), its directions stay: each step
    differs from an exact one by at most 0.3 of it.
    """
    momentum, weight = np.zeros_like(MATRIX), MATRIX.copy()
    for gradient in GRADIENTS:
        momentum += 0.05 * (gradient - momentum)
        nesterov = gradient + 0.95 * (momentum - gradient)
        left, _, right = np.linalg.svd(nesterov, full_matrices=False)
        weight = weight * (1 - 0.1 * 0.2) - 0.1 * 0.2 * np.sqrt(3) * left @ right
    change = 0.1 * 0.2 * np.sqrt(3)
    assert np.abs(update("muon") - weight).max() < 2 * 0.3 * change
    assert np.abs(update("muon") - update("adamw")).max() > 0.5 * change


@pytest.mark.parametrize("config", [TIED, UNTIED, None])
def test_muon_leaves_embeddings_heads_and_vectors_to_adamw(root, config):
    from pipelines.finetune.models.architecture import Architecture

    changes = (
        {} if config is None else {"task": "language_modelling", "architecture": Architecture(config=config)}
    )
    training = make_training(root, **changes)
    model = build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=0)
    hidden = {each.name: each.tensor.ndim for each in list_trainable(model) if each.is_hidden}
    others = {each.name for each in list_trainable(model) if not each.is_hidden}
    assert len(hidden) >= 4
    assert set(hidden.values()) == {2}
    assert not any("embed" in name or "wte" in name or "wpe" in name or "head" in name for name in hidden)
    assert any("embed" in name or "wte" in name for name in others)
    if config is UNTIED:
        assert "decoder.lm_head.weight" in others
    if config is None:
        assert {"head.weight", "head.bias"} <= others


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_a_training_learns_and_continues_bitwise(root, name):
    rate = {"adafactor": 0.02, "muon": 0.003}[name]
    result = train_rank(make_training(root, optimizer=name, learning_rate=rate, num_epochs=6.0), alone())
    assert result["after"]["accuracy"] > result["before"]["accuracy"] + 0.2
    whole = run_steps(alone(), double_training(root, "whole", optimizer=name))
    training = double_training(root, "parts", optimizer=name)
    run_steps(alone(), training, range(9))
    rest = run_steps(alone(), training, range(9, STEPS))
    assert rest["began"] == 9
    assert (rest["curve"] == whole["curve"][9:]).all()
    assert all((rest["weights"][each] == weights).all() for each, weights in whole["weights"].items())


def test_adafactor_keeps_less_than_a_tenth_of_the_state_of_adamw(root):
    sizes = {
        name: run_steps(alone(), double_training(root, name, optimizer=name), range(1))["bytes"]
        for name in ("adamw", "adafactor", "muon")
    }
    assert sizes["adafactor"] < 0.1 * sizes["adamw"]
    assert sizes["muon"] < 0.8 * sizes["adamw"]


@pytest.mark.slow
def test_two_ranks_with_adafactor_equal_one(root):
    one = run_steps(alone(), double_training(root, "one", optimizer="adafactor"))
    training = double_training(root, "two", optimizer="adafactor", collectives="torch")
    for steps in (range(9), range(9, STEPS)):  # the second rank gets its state from the first one
        found = run_processes(run_steps, training, steps, num_ranks=2, backend="torch")[0]
    assert np.abs(found["curve"] - one["curve"][9:]).max() < 1e-12
    for name, weights in one["weights"].items():
        # The true gradient of a key's bias is 0. Adafactor, unlike AdamW, makes full updates of its rounding.
        tolerance = 1e-9 if name.endswith("key.bias") else 1e-12
        assert np.abs(found["weights"][name] - weights).max() < tolerance, name


@pytest.mark.slow
def test_two_ranks_with_muon_follow_one(root):
    """Muon computes directions in bfloat16, where a last bit of a gradient may become a thousandth."""
    one = run_steps(alone(), double_training(root, "one", optimizer="muon"))
    training = double_training(root, "two", optimizer="muon", collectives="torch")
    for steps in (range(9), range(9, STEPS)):
        found = run_processes(run_steps, training, steps, num_ranks=2, backend="torch")[0]
    assert_equal(found, one, tolerance=2e-3)


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_a_sharded_optimizer_refuses_what_it_would_cut(name):
    """When it is planned, before a run or a rank exists."""
    settings = SimpleNamespace(
        strategy="sharded_optimizer", num_ranks=2, optimization=Optimization(optimizer=name)
    )
    with pytest.raises(
        ValueError, match=rf"optimizer {name} updates whole matrices.*set finetune.strategy=data"
    ):
        require_supported(settings, "classification")


def test_a_torch_without_muon_is_named(monkeypatch):
    monkeypatch.setattr("pipelines.finetune.optimizer.MUON", None)
    with pytest.raises(ValueError, match=r"muon, which torch .* does not have; install torch 2.9 or later"):
        build_optimizer([], Optimization(optimizer="muon"))
