import math

import pytest
import torch
from torch import nn

from pipelines.finetune.optimizer import build_optimizer, list_trainable, new_state, set_learning_rate
from pipelines.finetune.training import Optimization, learning_rate


def test_the_rate_rises_and_falls_as_half_a_cosine():
    optimization = Optimization(learning_rate=1.0, warmup_fraction=0.2, final_learning_rate_fraction=0.1)
    rates = [learning_rate(step, 10, optimization) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx(
        [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    )


def test_one_step_needs_no_warmup():
    assert learning_rate(0, 1, Optimization(learning_rate=0.5)) == 0.5


def test_the_head_learns_faster_and_vectors_do_not_decay():
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(
        list_trainable(model),
        Optimization(learning_rate=1.0, head_learning_rate_factor=5.0, weight_decay=0.1),
    )
    set_learning_rate(optimizer, 0.5)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found[id(model["encoder"].weight)] == (0.5, 0.1)
    assert found[id(model["encoder"].bias)] == (0.5, 0.0)
    assert found[id(model["head"].weight)] == (2.5, 0.1)
    assert len(found) == 4


def test_an_update_equals_torch_adamw_without_our_groups():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    optimizers = [
        build_optimizer(list_trainable(ours), Optimization(learning_rate=0.1, weight_decay=0.2)),
        torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.2),
    ]
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0, got 0.0"),
        ({"warmup_fraction": 1.1}, r"warmup_fraction must be in \[0, 1\], got 1.1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Optimization(**change)


def test_new_state_has_the_fields_of_adamw():
    model = nn.Linear(3, 2, bias=False)
    optimizer = build_optimizer(list_trainable(model), Optimization())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    found, made = optimizer.state[model.weight], new_state(model.weight)
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        name: (value.shape, value.dtype) for name, value in made.items()
    }


def test_a_rank_may_own_no_parameters():
    optimizer = build_optimizer([], Optimization())
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
