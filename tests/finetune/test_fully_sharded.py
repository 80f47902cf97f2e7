"""Fully sharded training beyond its steps: evaluations, export, experts, checkpoints that can't be read."""

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.parallel.fully_sharded import FullySharded
from pipelines.finetune.tasks.task import Batch
from pipelines.finetune.worker import train_rank
from pipelines.storage import Folder
from tests.finetune.data import make_training
from tests.finetune.ranks import RankDiedError, alone, run_processes
from tests.finetune.test_adapter_ranks import DECODER
from tests.finetune.test_strategies import assert_equal, damage, double_training, run_steps
from tests.finetune.test_train import read_losses, train_in

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SHARDED = {"strategy": "fully_sharded", "collectives": "torch"}


def test_a_whole_training_of_a_decoder_follows_one_process(text_root):
    """With tied weights, recomputed activations, few logits, evaluations between steps, and the best of four
    checkpoints exported."""
    results, weights = [], []
    for name in ("one", "two"):
        training = make_training(
            text_root,
            folder=str(text_root / name),
            task="language_modelling",
            architecture=Architecture(config=DECODER),
            micro_batch=3,
            num_epochs=1.0,
            evaluate_every_steps=3,
            activation_checkpointing=True,
            max_logit_tokens=16,
            **SHARDED,
        )
        if name == "one":
            results.append(train_rank(training, alone()))
        else:
            results.append(run_processes(train_in, training, num_ranks=2, backend="torch")[0])
        weights.append(safetensors.torch.load_file(text_root / name / "model" / "model.safetensors"))
    losses = [read_losses(text_root / name) for name in ("one", "two")]
    assert sorted(losses[0]) == sorted(losses[1]) == list(range(1, 11))
    assert max(abs(losses[0][step] - losses[1][step]) for step in losses[0]) < 1e-5
    assert results[0]["after"] == pytest.approx(results[1]["after"], abs=1e-4)
    for key in ("best_step", "num_parameters", "num_trained_parameters"):
        assert results[0][key] == results[1][key]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[1][name] - each).abs().max() < 1e-4 for name, each in weights[0].items())


@pytest.mark.soak
def test_a_damaged_only_checkpoint_starts_from_the_beginning(root):
    training = double_training(root, "run", **SHARDED)
    first = run_processes(run_steps, training, range(3), num_ranks=2, backend="torch")[0]
    damage(root / "run" / "checkpoints" / "step-00000003" / "model-00001-of-00002.safetensors")
    again = run_processes(run_steps, training, range(3), num_ranks=2, backend="torch")[0]
    assert again["began"] == 0
    assert_equal(again, first, tolerance=1e-15)


class Routed(PreTrainedModel):
    """Two layers; a layer has an expert that its rows use or do not use."""

    config_class = PreTrainedConfig

    def __init__(self) -> None:
        super().__init__(PreTrainedConfig())
        self.layers = nn.ModuleList([Layer(), Layer()])

    def forward(self, rows_BH, uses_expert):
        for layer in self.layers:
            rows_BH = layer(rows_BH, uses_expert)
        return rows_BH


class Layer(GradientCheckpointingLayer):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.expert = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, rows_BH, uses_expert):
        hidden_BH = self.dense(rows_BH)
        return hidden_BH + self.expert(hidden_BH) if uses_expert else hidden_BH


class SumOfOutputs:
    """A task whose loss is the sum of all outputs."""

    compares_rows = False

    def loss_sum(self, outputs, batch):
        return outputs.sum()


def build_routed(load_weights):
    torch.manual_seed(0)
    return Routed().double()


def measure_routed(world, folder, uses_expert):
    """Gradients by name after one pass of each rank; `uses_expert` by rank."""
    strategy = FullySharded(CPU)
    strategy.build(build_routed, Optimization(), num_micro_batches=1, checkpoints=Folder(folder))
    rows = torch.full((2, 4), 1.0 + world.rank, dtype=torch.float64)
    batch = Batch({"rows_BH": rows, "uses_expert": uses_expert[world.rank]}, rows, 0)
    strategy.forward_backward([batch], SumOfOutputs(), num_targets=1.0)
    found = {}
    for name, each in strategy._model.named_parameters():
        assert isinstance(each, DTensor)
        found[name] = None if each.grad is None else each.grad.full_tensor().numpy()
    return found


@pytest.mark.parametrize(
    "uses_expert",
    [(True, False), *(pytest.param(each, marks=pytest.mark.soak) for each in [(False, True), (True, True)])],
)
def test_an_expert_that_some_ranks_use_gets_their_gradient(tmp_path, uses_expert):
    found = run_processes(measure_routed, str(tmp_path), uses_expert, num_ranks=2, backend="torch")[0]
    model = build_routed(True)
    for rank, uses in enumerate(uses_expert):
        model(torch.full((2, 4), 1.0 + rank, dtype=torch.float64), uses).sum().backward()
    for name, each in model.named_parameters():
        assert np.abs(found[name] - each.grad.numpy()).max() < 1e-12, name


@pytest.mark.soak
def test_a_model_without_layers_is_refused(root):
    config = {"model_type": "albert", "embedding_size": 8, "max_position_embeddings": 64}
    config |= {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    training = make_training(root, architecture=Architecture(config=config), **SHARDED)
    with pytest.raises(RankDiedError, match=r"type albert has no layers .* set it to sharded_optimizer"):
        run_processes(train_in, training, num_ranks=2, backend="torch")
