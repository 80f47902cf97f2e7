"""The loss of a language model from the logits of a few tokens at once: the plain one, in less memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.dataset.rows import NO_LABEL
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.decoder import limit_logits
from pipelines.finetune.precision import use_precision
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.task import Batch
from pipelines.finetune.worker import train_rank
from tests.finetune.data import VOCABULARY, make_training
from tests.finetune.ranks import alone
from tests.finetune.test_train import DECODER, read_losses

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
TIED, UNTIED = DECODER, LLAMA
NUM_ROWS, NUM_TOKENS = 5, 16
CPU = torch.device("cpu")


def make_batch(*, packed, num_targets=None):
    """Five rows of 16 tokens, of which about 60 % are targets, or the first `num_targets`."""
    generator = torch.Generator().manual_seed(3)
    shape = (NUM_ROWS, NUM_TOKENS)
    ids_BT = torch.randint(0, VOCABULARY, shape, generator=generator, dtype=torch.int32)
    is_target_BT = torch.rand(shape, generator=generator) < 0.6
    is_target_BT[:, 0] = True  # predicted from nothing
    if num_targets is not None:
        is_target_BT = torch.arange(NUM_ROWS * NUM_TOKENS).reshape(shape) < num_targets
    targets_BT = torch.where(is_target_BT, ids_BT, NO_LABEL)
    inputs = {"input_ids_BT": ids_BT, "attention_mask_BT": torch.ones(shape, dtype=torch.bool)}
    if packed:
        halves = torch.arange(NUM_TOKENS, dtype=torch.int32).repeat(NUM_ROWS, 1)
        inputs |= {"position_ids_BT": halves % 8, "segment_ids_BT": halves // 8}
    return Batch({**inputs, "targets_BT": targets_BT}, targets_BT, 1.0)


def build(root, config, *, double=True):
    training = make_training(root, task="language_modelling", architecture=Architecture(config=config))
    model = build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=0).eval()
    return (model.double() if double else model), build_task(training.spec)


def run(model, task, batch):
    """(loss, sums of the evaluation, gradients by name) of a batch."""
    model.zero_grad()
    outputs = model(**batch.inputs)
    loss = task.loss_sum(outputs, batch)
    (loss / 7).backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    return loss.detach(), task.sums(outputs.detach(), batch), gradients


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("config", [TIED, UNTIED])
@pytest.mark.parametrize("most", [1, 7, 1000])
def test_loss_and_gradients_equal_those_of_all_logits(root, config, packed, most):
    model, task = build(root, config)
    batch = make_batch(packed=packed)
    loss, sums, gradients = run(model, task, batch)
    limit_logits(model, most)
    assert model(**batch.inputs).dim() == 1
    found_loss, found_sums, found = run(model, task, batch)
    assert abs(found_loss - loss) < 1e-12 * loss
    assert (found_sums - sums).abs().max() < 1e-10
    assert found.keys() == gradients.keys()
    assert len(found) > 10
    for name, gradient in gradients.items():
        assert (found[name] - gradient).abs().max() < 1e-12, name
    assert max(each.abs().max() for each in gradients.values()) > 1e-3


class LargestLogits(TorchDispatchMode):
    """The most rows of a tensor (..., vocabulary) that an operation made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple) else (result,):
            if isinstance(each, torch.Tensor) and each.dim() and each.shape[-1] == VOCABULARY:
                self.most = max(self.most, each.numel() // VOCABULARY)
        return result


def test_the_logits_of_all_tokens_never_exist(root):
    model, task = build(root, {**LLAMA, "hidden_size": 16})
    batch, counts = make_batch(packed=False), []
    for most in (None, 5):
        if most is not None:
            limit_logits(model, most)
        with LargestLogits() as largest:
            run(model, task, batch)
        counts.append(largest.most)
    # 16 rows of (hidden, vocabulary) are a gradient of the transposed output layer.
    assert counts == [NUM_ROWS * NUM_TOKENS, 16]


def test_other_callers_still_get_logits(root):
    model, _ = build(root, TIED)
    limit_logits(model, 5)
    inputs = {name: each for name, each in make_batch(packed=False).inputs.items() if name != "targets_BT"}
    assert model(**inputs).shape == (NUM_ROWS, NUM_TOKENS, VOCABULARY)


def test_a_batch_without_targets_has_no_loss(root):
    model, task = build(root, TIED)
    limit_logits(model, 5)
    loss, sums, gradients = run(model, task, make_batch(packed=False, num_targets=1))
    assert (loss, sums[:2].tolist()) == (0, [0, 0])
    assert max(each.abs().max() for each in gradients.values()) == 0


def test_losses_of_a_model_in_16_bits_are_float32(root):
    model, task = build(root, TIED, double=False)
    batch = make_batch(packed=False)
    expected, *_ = run(model, task, batch)
    limit_logits(model, 5)
    use_precision(model, "bfloat16", CPU)
    assert model(**batch.inputs).dtype == torch.float32
    loss, _, gradients = run(model, task, batch)
    assert 0 < abs(loss - expected) < 0.01 * expected
    assert {each.dtype for each in gradients.values()} == {torch.float32}


def test_a_training_gives_the_same_losses(text_root):
    found = []
    for most in (None, 10):
        training = make_training(
            text_root,
            folder=str(text_root / str(most)),
            task="language_modelling",
            architecture=Architecture(config={**DECODER, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}),
            max_logit_tokens=most,
            num_epochs=1.0,
        )
        result = train_rank(training, alone())
        found.append((read_losses(text_root / str(most)), result["after"], training.identity()))
    plain, limited = found
    assert len(plain[0]) == 10
    assert max(abs(plain[0][step] - limited[0][step]) for step in plain[0]) < 1e-5
    assert limited[1] == pytest.approx(plain[1], rel=1e-4)
    assert limited[2] == plain[2]


GEMMA = {**LLAMA, "model_type": "gemma2", "num_key_value_heads": 1, "head_dim": 16}
GRANITE = {**LLAMA, "model_type": "granite", "logits_scaling": 3.0}


@pytest.mark.parametrize("config", [GEMMA, GRANITE])
def test_logits_that_are_more_than_the_output_layer_are_refused(root, config):
    model, _ = build(root, config, double=False)
    with pytest.raises(ValueError, match=f"the logits of model type {config['model_type']} are more than"):
        limit_logits(model, 5)


def test_other_tasks_are_refused(root):
    training = make_training(root)
    model = build_model(training.architecture, training.spec, vocab_size=VOCABULARY, seed=0)
    with pytest.raises(ValueError, match=r"max_logit_tokens is for tasks that predict next tokens .*to null"):
        limit_logits(model, 5)
