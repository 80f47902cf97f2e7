"""Training in 16 bits: what is computed in them, and what is not."""

import json

import pytest
import safetensors.numpy
import torch
from torch import nn

from pipelines.finetune.models.build import build_model
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.precision import require_precision, use_precision
from pipelines.finetune.worker import train_rank
from tests.finetune.data import VOCABULARY, WITHOUT_DROPOUT, make_training
from tests.finetune.ranks import SOAK_FULLY_SHARDED, alone, run_processes
from tests.finetune.test_train import read_losses, train_in

CPU = torch.device("cpu")


def run_backward(training, precision):
    """(outputs, gradients by name, types of the outputs of all linear layers) of one batch."""
    model = build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=0).eval()
    use_precision(model, precision, CPU)
    types = set()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    ids_BT = torch.arange(24).reshape(2, 12)
    outputs = model(input_ids_BT=ids_BT, attention_mask_BT=torch.ones_like(ids_BT))
    outputs.square().sum().backward()
    return outputs.detach(), {name: each.grad for name, each in model.named_parameters()}, types


def test_layers_compute_in_bfloat16_and_gradients_are_float32(root):
    training = make_training(root, config=WITHOUT_DROPOUT)
    plain, expected, plain_types = run_backward(training, "float32")
    outputs, gradients, types = run_backward(training, "bfloat16")
    assert (plain_types, types) == ({torch.float32}, {torch.bfloat16})
    assert outputs.dtype == torch.float32
    assert {each.dtype for each in gradients.values()} == {torch.float32}
    # bfloat16 has 8 bits: a relative error of 2^-9 per rounding, over some twenty of them.
    assert 0 < (outputs - plain).abs().max() < 0.05 * plain.abs().max()
    names = [name for name, each in expected.items() if each.abs().max() > 1e-3]
    assert len(names) > 10
    for name in names:
        assert (gradients[name] - expected[name]).abs().max() < 0.1 * expected[name].abs().max(), name


def test_weights_and_optimizer_stay_float32(root, monkeypatch):
    saved, save = [], SingleProcess.save

    def spy(self, checkpoints, state):
        save(self, checkpoints, state)
        saved.append({each.dtype for values in self._optimizer.state.values() for each in values.values()})

    monkeypatch.setattr(SingleProcess, "save", spy)
    result = train_rank(make_training(root, precision="bfloat16", num_epochs=4.0), alone())
    assert saved
    assert all(types == {torch.float32} for types in saved)
    weights = safetensors.numpy.load_file(root / "run" / "model" / "model.safetensors")
    assert {str(each.dtype) for each in weights.values()} == {"float32"}
    assert result["after"]["accuracy"] > result["before"]["accuracy"] + 0.2  # it learns all the same


def test_a_resumed_training_in_16_bits_is_bitwise_that_of_one_run(root, monkeypatch):
    whole = train_rank(make_training(root, folder=str(root / "whole"), precision="bfloat16"), alone())
    training, save = make_training(root, precision="bfloat16"), SingleProcess.save

    def save_and_fail(self, checkpoints, state):
        save(self, checkpoints, state)
        if state.step == 14:
            raise KeyboardInterrupt

    monkeypatch.setattr(SingleProcess, "save", save_and_fail)
    with pytest.raises(KeyboardInterrupt):
        train_rank(training, alone())
    monkeypatch.setattr(SingleProcess, "save", save)
    assert train_rank(training, alone()) == whole
    float32 = train_rank(make_training(root, folder=str(root / "float32")), alone())
    assert float32["weights"] != whole["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["data_parallel", SOAK_FULLY_SHARDED])
def test_two_ranks_in_16_bits_follow_one(root, strategy):
    one, two = (
        make_training(
            root,
            folder=str(root / name),
            config=WITHOUT_DROPOUT,
            precision="bfloat16",
            strategy=strategy,
            collectives="torch",
            micro_batch=8,
        )
        for name in ("one", "two")
    )
    train_rank(one, alone())
    run_processes(train_in, two, num_ranks=2, backend="torch")
    losses = [read_losses(root / name) for name in ("one", "two")]
    assert sorted(losses[0]) == sorted(losses[1]) == list(range(1, 31))
    assert max(abs(losses[0][step] - losses[1][step]) for step in losses[0]) < 0.02


def test_a_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(
        ValueError, match=r"is bfloat16, which Tesla T4 does not compute; set .*=float16 or float32"
    ):
        require_precision("bfloat16", torch.device("cuda"))
    require_precision("float32", torch.device("cuda"))
    require_precision("bfloat16", CPU)


def test_the_precision_is_part_of_the_identity_and_of_the_record(root):
    base, other = make_training(root), make_training(root, precision="bfloat16")
    assert "precision" not in base.identity()
    assert json.loads(json.dumps(other.identity())) != json.loads(json.dumps(base.identity()))
    assert (base.settings()["precision"], other.settings()["precision"]) == ("float32", "bfloat16")
