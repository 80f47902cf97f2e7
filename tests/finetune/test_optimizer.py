import pytest
import torch
from torch import nn

from pipelines.finetune.optimization import Optimization
from pipelines.finetune.optimizer import build_optimizer, list_trainable, new_state, set_learning_rate


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


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_new_state_has_the_fields_of_the_optimizer(name):
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    optimizer = build_optimizer(list_trainable(model), Optimization(optimizer=name))
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    fields = set()
    for parameter in model.parameters():
        found, made = optimizer.state[parameter], new_state(optimizer, parameter)
        assert {field: (value.shape, value.dtype, value.device) for field, value in found.items()} == {
            field: (value.shape, value.dtype, value.device) for field, value in made.items()
        }
        fields |= set(found)
    adamw = {"step", "exp_avg", "exp_avg_sq"}
    assert (
        fields
        == {
            "adamw": adamw,
            "adafactor": {"step", "row_var", "col_var", "variance"},
            "muon": {"momentum_buffer"} | adamw,
        }[name]
    )


def test_a_rank_may_own_no_parameters():
    optimizer = build_optimizer([], Optimization())
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
