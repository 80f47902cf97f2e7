"""Activation checkpointing: equal gradients, with dropout, from fewer kept tensors."""

import pytest
import torch

from pipelines.finetune.models.activations import recompute_activations
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.worker import train_rank
from tests.finetune.data import VOCABULARY, make_training
from tests.finetune.ranks import alone
from tests.finetune.test_train import DECODER

DEEP = {"num_hidden_layers": 6}


def run_backward(training, *, recompute):
    """(gradients by name in float64, bytes that the graph keeps for backward) of one batch, with dropout."""
    model = build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=0).double().train()
    if recompute:
        recompute_activations(model)
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids_BT = (torch.arange(4 * 24) % VOCABULARY).reshape(4, 24)
    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(input_ids_BT=ids_BT, attention_mask_BT=torch.ones_like(ids_BT))
    at_end = sum(kept.values())
    outputs.square().sum().backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}, at_end


@pytest.mark.parametrize("task", ["classification", "language_modelling", "masked_language_modelling"])
def test_gradients_are_equal_and_less_is_kept(root, task):
    changes = {"config": DEEP}
    if task == "language_modelling":
        changes = {"architecture": Architecture(config={**DECODER, "n_layer": 6})}
    training = make_training(root, task=task, **changes)
    expected, all_bytes = run_backward(training, recompute=False)
    found, kept_bytes = run_backward(training, recompute=True)
    assert len(expected) > 50
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-12, name
    assert max(each.abs().max() for each in expected.values()) > 1e-3
    assert kept_bytes < 0.4 * all_bytes


@pytest.mark.parametrize("kind", ["lora", "adalora", "bottleneck"])
def test_gradients_of_adapters_are_equal(root, kind):
    adapter = Adapter(kind=kind, rank=4, dropout=0.2)
    deep = make_training(root, config=DEEP)
    build_model(deep.architecture, deep.spec, vocab_size=VOCABULARY, seed=4).encoder.save_pretrained(
        root / "b"
    )
    training = make_training(root, architecture=Architecture(base=str(root / "b"), adapter=adapter))
    expected, all_bytes = run_backward(training, recompute=False)
    found, kept_bytes = run_backward(training, recompute=True)
    assert len(expected) > 24
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-12, name
    assert kept_bytes < 0.4 * all_bytes


def test_a_training_does_not_depend_on_it(root):
    results = [
        train_rank(
            make_training(root, folder=str(root / str(recompute)), activation_checkpointing=recompute),
            alone(),
        )
        for recompute in (False, True)
    ]
    assert results[0] == results[1]  # the digest of the weights, too: dropout drew the same units
    base, other = make_training(root), make_training(root, activation_checkpointing=True)
    assert base.identity() == other.identity()


def test_an_architecture_that_cannot_is_named(root):
    training = make_training(root)
    model = build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=0)
    model.encoder.supports_gradient_checkpointing = False
    with pytest.raises(
        ValueError, match=r"model type bert can't recompute its activations .*set it to false"
    ):
        recompute_activations(model)
    assert not any(getattr(each, "gradient_checkpointing", False) for each in model.modules())
