"""The ranks of AdaLoRA: the penalty by hand, a training that is stopped, what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from pipelines.finetune import worker
from pipelines.finetune.models.adapter import Adapter, RankSchedule
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.parallel.sharded_optimizer import ShardedOptimizer
from pipelines.finetune.plan import _require_prefix_fits
from pipelines.finetune.rank_budget import RankBudget, plan_ranks
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.conftest import TINY_ENCODER
from tests.finetune.data import make_training
from tests.finetune.ranks import alone
from tests.finetune.test_adapter_kinds import move
from tests.finetune.test_adapters import build
from tests.finetune.test_train import read_losses


def build_ranks(**schedule):
    adapter = Adapter(kind="adalora", rank=2, target_modules=("q_proj",), adalora=RankSchedule(**schedule))
    return move(build("llama", adapter))


def test_the_penalty_is_that_of_the_paper_by_hand():
    module = build_ranks(orthogonality=0.25)
    budget = RankBudget(module)
    layer = module.decoder.model.layers[0].self_attn.q_proj
    down, up = layer.lora_A["default"], layer.lora_B["default"]
    up.grad = torch.ones_like(up)  # of the loss
    budget.add_penalty()

    def differentiate(matrix):  # of the norm of M = X X' - 1: 2 M X / |M|; a quarter of the mean of two
        distance = matrix @ matrix.T - torch.eye(3)
        return 0.25 / 2 * 2 * distance @ matrix / distance.norm()

    torch.testing.assert_close(down.grad, differentiate(down.detach()))
    torch.testing.assert_close(up.grad, 1 + differentiate(up.detach().T).T)
    assert layer.lora_E["default"].grad is None
    assert down.grad.abs().max() > 1e-3


def test_a_model_of_another_kind_has_no_budget():
    module = build("llama", Adapter(kind="lora", rank=2))
    budget = RankBudget(module)
    plan_ranks(module, 7)
    budget.add_penalty()
    budget.update(is_finite=True)
    assert budget.add_to({}) == {}
    assert list(budget.tensors()) == []
    assert all(each.grad is None for each in module.parameters())


def adapted(root, name, **changes):
    adapter = Adapter(kind="adalora", rank=4, dropout=0.1)
    architecture = Architecture(config=TINY_ENCODER, adapter=adapter)
    changes = {"learning_rate": 0.01, "ema_decay": 0.9, **changes}
    return make_training(root, folder=str(root / name), architecture=architecture, **changes)


@pytest.mark.parametrize("stop", [12, 26])
def test_a_stopped_training_ends_with_the_same_weights(root, monkeypatch, stop):
    """Of 30 steps, the ranks move from the 4th on and stay after the 24th. There is a mean of the weights."""
    whole = train_rank(adapted(root, "whole"), alone())
    seen = worker._Rank._after_step

    def end(self, step, *arguments):
        seen(self, step, *arguments)
        if step == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(worker._Rank, "_after_step", end)
    with pytest.raises(KeyboardInterrupt):
        train_rank(adapted(root, "stopped"), alone())
    monkeypatch.setattr(worker._Rank, "_after_step", seen)
    assert train_rank(adapted(root, "stopped"), alone())["weights"] == whole["weights"]
    assert read_losses(root / "whole")[30] == read_losses(root / "stopped")[30]
    files = (root / "whole" / "checkpoints" / "step-00000030").glob("optimizer-*.safetensors")
    state = safetensors.torch.load_file(next(files))
    kept = {name: each for name, each in state.items() if name.endswith("/kept")}
    assert len(kept) == 12  # linear layers; 6 directions each, 4 stay on average
    assert sum(int(each.sum()) for each in kept.values()) == 4 * 12


def test_sharded_gradients_are_refused_in_the_plan_and_by_the_strategy(root):
    training = adapted(root, "run")
    for strategy in ("auto", "single", "data_parallel"):
        training.architecture.adapter.require_strategy(strategy)
    Adapter(kind="lora").require_strategy("sharded_optimizer")
    with pytest.raises(ValueError, match=r"gradients of the global batch, .*set finetune.strategy=data_"):
        training.architecture.adapter.require_strategy("sharded_optimizer")
    collectives = SimpleNamespace(
        rank=0, world_size=1, broadcast=lambda flat, name: Done(), sum=lambda flat, name: Done()
    )
    with pytest.raises(ValueError, match=r"looks at the gradients of the global batch"):
        ShardedOptimizer(collectives, torch.device("cpu")).build(
            lambda load_weights: build_ranks(),
            replace(training.optimization, ema_decay=None),
            num_micro_batches=1,
            checkpoints=Folder(str(root / "c")),
        )


class Done:
    def wait(self):
        """One rank has nothing to wait for."""


def test_a_prefix_that_would_be_lost_is_refused_in_the_plan():
    def require(kind="prefix", *, recompute=False, task="language_modelling", units=7, continued=0):
        settings = SimpleNamespace(
            model=Architecture(base="b", adapter=Adapter(kind=kind)), activation_checkpointing=recompute
        )
        counts = {
            "train": {"sequences": 7, "units": units, "continued": continued},
            "test": {"sequences": 2, "units": 2},
        }
        _require_prefix_fits(settings, {"task": task, "splits": counts})

    require()
    require(task="preference", units=14)  # a chosen and a rejected response
    require("lora", recompute=True, units=8)
    with pytest.raises(ValueError, match=r"transformers drops keys and values .*set it to false"):
        require(recompute=True)
    with pytest.raises(ValueError, match=r"these hold several; run the dataset stage with dataset.packing"):
        require(units=8)
    with pytest.raises(ValueError, match=r"these hold several"):
        require(units=6, continued=2)
    require(units=6, continued=1)
