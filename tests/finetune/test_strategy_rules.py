"""What a strategy refuses before a run or a rank exists, and what its settings mean."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pipelines.finetune.launch.world import assign_ranks
from pipelines.finetune.models.layers import list_layers
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.parallel.rules import LocalSgdRules, choose_collectives, require_supported
from pipelines.finetune.parallel.table import build_strategy
from pipelines.finetune.preference import PreferenceLoss
from tests.finetune.data import make_training
from tests.finetune.test_finetune_plan import plan


def settings(
    strategy,
    *,
    num_ranks=2,
    precision="float32",
    sequence_losses=False,
    compiled=False,
    compare=None,
    loss="dpo",
    **optimization,
):
    return SimpleNamespace(
        strategy=strategy,
        num_ranks=num_ranks,
        compile=compiled,
        compare_replicas_every_steps=compare,
        local_sgd=LocalSgdRules(inner_steps=4),
        precision=precision,
        sequence_losses=sequence_losses,
        preference=PreferenceLoss(loss=loss),
        optimization=Optimization(**optimization),
    )


REFUSED = [
    ("single", "classification", {}, r"single, but finetune.num_ranks is 2; set finetune.num_ranks=1 or"),
    (
        "sharded_optimizer",
        "classification",
        {"optimizer": "muon"},
        r"muon updates .* sharded_optimizer gives",
    ),
    (
        "fully_sharded",
        "classification",
        {"optimizer": "adafactor"},
        r"adafactor updates .* fully_sharded gives",
    ),
    ("fully_sharded", "preference", {}, r"dpo keeps a second copy .* set loss to orpo, or strategy"),
    ("fully_sharded", "classification", {"compiled": True}, r"in hooks .*set finetune.compile=false"),
    ("fully_sharded", "classification", {"compare": 8}, r"no rank holds what another .*set it to null"),
    (
        "local_sgd",
        "classification",
        {"compare": 6},
        r"every_steps is 6; set it to a multiple .*inner_steps, 4",
    ),
    ("local_sgd", "classification", {"num_ranks": 1}, r"at least 2 ranks, got .*=1; set strategy=auto"),
    ("local_sgd", "classification", {"precision": "float16"}, r"another factor in float16; set .*bfloat16"),
    ("local_sgd", "classification", {"ema_decay": 0.9}, r"a mean over steps; set ema_decay=null"),
    ("local_sgd", "classification", {"sequence_losses": True}, r"may diverge alone.*set it to false"),
    ("local_sgd", "retrieval", {}, r"compares the rows of all ranks .*set strategy=data_parallel"),
]


@pytest.mark.parametrize(("strategy", "task", "changes", "message"), REFUSED)
def test_what_a_strategy_cannot_do_is_refused(strategy, task, changes, message):
    with pytest.raises(ValueError, match=message):
        require_supported(settings(strategy, **changes), task)
    require_supported(settings("data_parallel", **changes), task)


@pytest.mark.parametrize(
    ("strategy", "task", "changes"),
    [
        ("fully_sharded", "preference", {"loss": "orpo"}),
        ("fully_sharded", "retrieval", {"precision": "float16", "ema_decay": 0.9, "sequence_losses": True}),
        ("local_sgd", "preference", {"optimizer": "muon", "precision": "bfloat16"}),
        ("local_sgd", "classification", {"compiled": True, "compare": 8}),
    ],
)
def test_what_it_can_do_is_not(strategy, task, changes):
    require_supported(settings(strategy, **changes), task)


def test_a_plan_asks_the_rules():
    ranks = {"strategy": "fully_sharded", "preference": PreferenceLoss()}
    with pytest.raises(ValueError, match="is fully_sharded, but"):
        plan(task="preference", ranks=ranks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_steps": 0}, r"inner_steps must be at least 1, got 0"),
        ({"outer_learning_rate": 0.0}, r"outer_learning_rate must be greater than 0, got 0.0"),
        ({"outer_momentum": 1.0}, r"outer_momentum must be in \[0, 1\), got 1.0"),
        ({"outer_momentum": -0.1}, r"outer_momentum must be in \[0, 1\), got -0.1"),
    ],
)
def test_rules_have_limits(changes, message):
    with pytest.raises(ValueError, match=f"finetune.local_sgd.{message}"):
        LocalSgdRules(**changes)


def test_local_sgd_is_part_of_the_identity_and_other_strategies_are_not(tmp_path):
    base = make_training(tmp_path)
    for strategy in ("sharded_optimizer", "fully_sharded"):
        assert make_training(tmp_path, strategy=strategy).identity() == base.identity()
    local = make_training(tmp_path, strategy="local_sgd", local_sgd=LocalSgdRules(inner_steps=8))
    assert local.identity()["local_sgd"]["inner_steps"] == 8
    assert {**base.identity(), "local_sgd": local.identity()["local_sgd"]} == local.identity()
    assert "local_sgd" not in base.settings()
    assert local.settings()["local_sgd"]["inner_steps"] == 8


def test_fsdp_takes_torch_whatever_carries_the_rest(tmp_path):
    assert choose_collectives("fully_sharded", "horovod") == "torch"
    assert choose_collectives("local_sgd", "horovod") == "horovod"
    world = assign_ranks(["127.0.0.1"] * 2, [None] * 2)[0]
    execution = make_training(tmp_path, strategy="fully_sharded").execution
    with pytest.raises(
        ValueError, match=r"needs collectives torch, got horovod.*set finetune.collectives=torch"
    ):
        build_strategy(world, replace(execution, collectives="horovod"))


class Nested(torch.nn.Module):
    """As a task's module around a backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


@pytest.mark.parametrize(
    ("model_type", "names"),
    [("bert", ["encoder.layer.0", "encoder.layer.1"]), ("gpt2", ["h.0", "h.1"]), ("albert", [])],
)
def test_layers_are_found_by_their_class(model_type, names):
    from transformers import AutoConfig, AutoModel

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    config = AutoConfig.for_model(model_type, vocab_size=64, bos_token_id=0, eos_token_id=0, **sizes)
    backbone = AutoModel.from_config(config)
    assert list_layers(Nested(backbone)) == [backbone.get_submodule(name) for name in names]
