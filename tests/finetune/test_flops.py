"""FLOPs of a step: beside torch's own counter, which looks at every product, and by hand."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.finetune.flops import count_flops
from pipelines.finetune.models.adapter import Adapter
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.decoder import limit_logits
from pipelines.finetune.peak import find_known_tflops, find_peak_flops
from pipelines.finetune.preference import PreferenceLoss
from tests.finetune.data import VOCABULARY, make_training
from tests.finetune.test_model import TINY_BERT, TINY_LLAMA
from tests.finetune.test_task import make_spec

T = 24
LLAMA = {**TINY_LLAMA, "num_hidden_layers": 3, "tie_word_embeddings": False}


def build(config, task, *, adapter=None, frozen=(), **spec):
    architecture = Architecture(config=config, adapter=adapter or Adapter(), frozen=frozen)
    made = make_spec(task, labels=("a", "b"), **spec)
    return build_model(architecture, made, vocab_size=VOCABULARY, seed=0)


def measure(module, **inputs):
    """What torch counts in a forward and a backward pass of one row of T tokens."""
    ids = torch.randint(0, VOCABULARY, (1, T))
    with FlopCounterMode(display=False) as counter:
        outputs = module.train()(input_ids_BT=ids, attention_mask_BT=torch.ones_like(ids), **inputs)
        outputs.double().sum().backward()
    return counter.get_total_flops()


def count(module, num_targets=0):
    return count_flops(module).count(np.array([T]), np.array([num_targets]))


@pytest.mark.parametrize(
    "model",
    [
        (TINY_BERT, "classification", {}),
        (LLAMA, "language_modelling", {}),
        ({**LLAMA, "tie_word_embeddings": True}, "language_modelling", {}),
        (LLAMA, "language_modelling", {"adapter": Adapter(kind="lora", rank=4)}),
        (LLAMA, "language_modelling", {"frozen": ("embed_tokens", "layers.0.", "layers.1.")}),
    ],
    ids=["encoder", "decoder", "tied", "lora", "frozen"],
)
def test_they_are_those_that_torch_counts(model):
    config, task, options = model
    module = build(config, task, **options)
    # The rule counts attention whole: in two frozen layers it has no backward pass, of 8 for each pair.
    frozen = 2 * 8 * LLAMA["hidden_size"] * T * T if "frozen" in options else 0
    # torch counts rotary angles too.
    assert count(module) - frozen == pytest.approx(measure(module), rel=0.02)


def test_an_output_layer_of_targets_alone_costs_by_target():
    module = build(LLAMA, "language_modelling")
    before = count_flops(module)
    limit_logits(module, 8)
    after = count_flops(module)
    head = 6 * VOCABULARY * LLAMA["hidden_size"]
    assert (after.per_target, before.per_token - after.per_token) == (head, head)


def test_a_reference_adds_a_forward_pass():
    alone = count_flops(build(LLAMA, "preference", preference=PreferenceLoss(loss="orpo")))
    both = count_flops(build(LLAMA, "preference", preference=PreferenceLoss(loss="dpo")))
    assert both.per_token == pytest.approx(alone.per_token * 4 / 3)
    assert both.per_pair == pytest.approx(alone.per_pair * 4 / 3)


def test_a_token_meets_its_experts_only():
    moe = {
        "model_type": "mixtral",
        **{name: LLAMA[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")},
        "num_key_value_heads": LLAMA["num_key_value_heads"],
        "num_hidden_layers": 1,
        "num_local_experts": 8,
    }
    one, three = (
        count_flops(build({**moe, "num_experts_per_tok": number}, "language_modelling")) for number in (1, 3)
    )
    expert = 3 * LLAMA["hidden_size"] * LLAMA["intermediate_size"]
    assert three.per_token - one.per_token == pytest.approx(6 * 2 * expert)


def test_a_sliding_window_limits_the_pairs():
    config = {**LLAMA, "model_type": "qwen2", "num_hidden_layers": 2, "sliding_window": 8}
    config |= {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}
    flops = count_flops(build(config, "language_modelling"))
    width = LLAMA["num_attention_heads"] * (LLAMA["hidden_size"] // LLAMA["num_attention_heads"])
    assert (flops.per_pair, flops.per_windowed_pair, flops.window) == (12 * width, 12 * width, 8)
    rows = [np.array([20, 5]), np.array([0, 0])]
    expected = flops.per_token * 25 + 12 * width * (400 + 25) + 12 * width * (160 + 25)
    assert flops.count(*rows) == pytest.approx(expected)
    everywhere = {**LLAMA, "model_type": "mistral", "sliding_window": 8}
    assert count_flops(build(everywhere, "language_modelling")).per_pair == 0


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("Another GPU", None),
    ],
)
def test_peaks_are_known_by_name(name, tflops):
    assert find_known_tflops(name) == tflops


def test_a_peak_may_be_set(root):
    cpu = torch.device("cpu")
    assert find_peak_flops(make_training(root, peak_tflops=0.5), cpu) == 5e11
    assert find_peak_flops(make_training(root), cpu) is None
    with pytest.raises(ValueError, match="peak_tflops must be greater than 0 or null, got 0"):
        make_training(root, peak_tflops=0.0)
