"""Adapters in a model: what is frozen, the formulas of the three kinds, PEFT's format, bases that differ."""

import json
import math

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from pipelines.dataset.tokenizer import train_bpe
from pipelines.finetune.models.adapter import Adapter, BaseWeights, read_base
from pipelines.finetune.models.adapter_files import save_adapter
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.finetune.models.lora import attach_adapter, count_parameters, merge_adapter, read_state
from tests.finetune.test_model import SIZES, TINY_BERT, TINY_LLAMA, logits, make_spec

TOKENIZER = train_bpe(iter(["some text"]), vocab_size=260).to_str()
TINY_GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0}
MODELS = {
    "bert": ("classification", TINY_BERT),
    "llama": ("language_modelling", TINY_LLAMA),
    "gpt2": ("language_modelling", TINY_GPT2),
}
KINDS = pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
NAMES = pytest.mark.parametrize("name", MODELS)
IDS, MASK = [[5, 6, 7], [8, 9, 0]], [[1, 1, 1], [1, 1, 0]]


def build(name, adapter=None, *, base=None, seed=1, **options):
    """The model of MODELS with this adapter, from scratch or on a base."""
    task, config = MODELS[name]
    architecture = Architecture(base=base, config={} if base else config, adapter=adapter or Adapter())
    return build_model(architecture, make_spec(task), vocab_size=260, seed=seed, **options)


def move(module):
    """Random values in the matrices that start at zero, as after some training."""
    torch.manual_seed(5)
    for name, parameter in module.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module.eval()


@pytest.fixture
def bases(tmp_path):
    """Folder of a base by name of MODELS, as transformers writes it."""

    def write(name, *, folder="base", seed=7):
        module = build(name, seed=seed)
        backbone = module.encoder if name == "bert" else module.decoder
        backbone.save_pretrained(tmp_path / folder)
        return str(tmp_path / folder)

    return write


@NAMES
@KINDS
def test_a_new_adapter_changes_nothing_and_is_trained_alone(name, kind):
    plain, adapted = build(name).eval(), build(name, Adapter(kind=kind, rank=4)).eval()
    torch.testing.assert_close(logits(adapted, IDS, MASK), logits(plain, IDS, MASK), rtol=1e-6, atol=1e-6)
    trained = {each for each, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == {
        each for each in dict(adapted.named_parameters()) if "lora_" in each or "head." in each
    }
    assert trained == read_state(adapted).keys()
    # By hand: rank x (inputs + outputs) of every linear layer; dora adds the outputs; the head.
    layers = {
        "bert": [(16, 16)] * 4 + [(16, 32), (32, 16)],
        "llama": [(16, 16)] * 4 + [(16, 32)] * 2 + [(32, 16)],
        "gpt2": [(16, 48), (16, 16), (16, 64), (64, 16)],
    }[name]
    num_trained = sum(4 * (inputs + outputs) + (kind == "dora") * outputs for inputs, outputs in layers)
    num_trained += 16 * 2 + 2 if name == "bert" else 0
    num_all = sum(parameter.numel() for parameter in plain.parameters())
    assert count_parameters(adapted) == (num_trained, num_trained + num_all - (34 if name == "bert" else 0))


@KINDS
def test_merged_weights_follow_the_formula_of_the_kind(kind):
    adapted = move(build("llama", Adapter(kind=kind, rank=4, alpha=6, target_modules=("q_proj",))))
    layer = adapted.decoder.model.layers[0].self_attn.q_proj
    old = layer.base_layer.weight.detach().clone()
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = old + (6 / (math.sqrt(4) if kind == "rslora" else 4)) * up @ down
    if kind == "dora":
        length = layer.lora_magnitude_vector["default"].weight[:, None]
        expected = length * expected / expected.norm(dim=1, keepdim=True)
    merge_adapter(adapted)
    merged = adapted.decoder.model.layers[0].self_attn.q_proj
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged.weight, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(merged.weight, old, atol=1e-3)


@NAMES
@KINDS
def test_merged_and_separate_weights_give_the_same_logits(tmp_path, bases, name, kind):
    base, found = bases(name), {}
    for merge in (True, False):
        adapted = move(build(name, Adapter(kind=kind, rank=4, merge=merge), base=base))
        before, spec = logits(adapted, IDS, MASK), make_spec(MODELS[name][0], end_token_id=1)
        save_model(adapted, TOKENIZER, spec, tmp_path / str(merge))
        found[merge] = logits(load_model(tmp_path / str(merge)).module, IDS, MASK)
    assert torch.equal(found[False], before)  # the base and the adapter as they were
    assert (found[True] - before).abs().max() < 1e-5
    assert (before - logits(build(name, base=base).eval(), IDS, MASK)).abs().max() > 1e-3
    files = {path.name for path in (tmp_path / "False").rglob("*") if path.suffix != ".json"}
    assert files == {"adapter", "adapter_model.safetensors"} | (
        {"head.safetensors"} if name == "bert" else set()
    )


# PEFT asks transformers under a name that is going to be removed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@NAMES
@KINDS
def test_peft_loads_the_adapter_of_a_model_folder(tmp_path, bases, name, kind):
    base = bases(name)
    adapted = move(build(name, Adapter(kind=kind, rank=4), base=base))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        ours = (adapted.encoder if name == "bert" else adapted.decoder)(ids)[0]
        save_model(adapted, TOKENIZER, make_spec(MODELS[name][0], end_token_id=1), tmp_path / "model")
        auto = AutoModel if name == "bert" else AutoModelForCausalLM
        theirs = PeftModel.from_pretrained(auto.from_pretrained(base), tmp_path / "model" / "adapter").eval()
        # They use another implementation of attention.
        torch.testing.assert_close(theirs(ids)[0], ours, rtol=1e-5, atol=1e-5)


def test_equal_adapters_give_equal_files(tmp_path, bases):
    base = bases("bert")
    for folder in ("one", "two"):
        save_model(build("bert", Adapter(kind="lora"), base=base), TOKENIZER, make_spec(), tmp_path / folder)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 7
    assert all(
        (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files
    )
    config = json.loads((tmp_path / "one" / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])  # a set has no order
    assert config["base_model_name_or_path"] == base


def test_a_base_of_the_hub_is_named_with_its_commit(tmp_path):
    module = build("llama")
    base = BaseWeights(sha256="0", name="org/name", commit="c0ffee")
    attach_adapter(module, Adapter(kind="lora"), base, "AutoModelForCausalLM")
    save_adapter(module, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/name", "c0ffee")
    assert config["task_type"] == "CAUSAL_LM"
    assert read_base(tmp_path).place == "org/name@c0ffee"


def test_another_base_is_refused_with_its_name(tmp_path, bases):
    base = bases("bert")
    save_model(
        build("bert", Adapter(kind="lora", merge=False), base=base), TOKENIZER, make_spec(), tmp_path / "m"
    )
    assert load_model(tmp_path / "m").spec.task == "classification"
    file = tmp_path / "base" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["encoder.layer.0.output.dense.bias"][3] += 1e-6
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"the adapter in .* belongs to the base weights {base} with sha256"
    ):
        load_model(tmp_path / "m")
    file.parent.rename(tmp_path / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"needs its base, which is not here: no model folder .*merge=true"
    ):
        load_model(tmp_path / "m")


def test_changed_settings_of_the_base_are_kept(tmp_path, bases):
    architecture = Architecture(
        base=bases("bert"), config={"hidden_dropout_prob": 0.25}, adapter=Adapter(kind="lora", merge=False)
    )
    module = build_model(architecture, make_spec(), vocab_size=260, seed=1)
    save_model(module, TOKENIZER, make_spec(), tmp_path / "m")
    assert load_model(tmp_path / "m").module.dropout.p == 0.25


def test_a_damaged_adapter_is_refused(tmp_path, bases):
    adapted = build("bert", Adapter(kind="lora", merge=False), base=bases("bert"))
    save_model(adapted, TOKENIZER, make_spec(), tmp_path / "m")
    for file, gone in (("head.safetensors", "head.bias"), ("adapter/adapter_model.safetensors", None)):
        path = tmp_path / "m" / file
        weights = safetensors.torch.load_file(path)
        kept = {name: each for name, each in weights.items() if name != (gone or min(weights))}
        safetensors.torch.save_file(kept, path)
        with pytest.raises(ValueError, match=r"head.safetensors has the weights|does not fit its own config"):
            load_model(tmp_path / "m")
        safetensors.torch.save_file(weights, path)
    assert load_model(tmp_path / "m").spec == make_spec()


def test_an_adapter_is_no_base(tmp_path, bases):
    base = bases("bert")
    save_model(
        build("bert", Adapter(kind="lora", merge=False), base=base), TOKENIZER, make_spec(), tmp_path / "m"
    )
    with pytest.raises(
        ValueError, match=r"holds an adapter without its base, which can't be trained further"
    ):
        build("bert", base=str(tmp_path / "m"))
    with pytest.raises(ValueError, match=r"adapter is an adapter, no model; name the base"):
        build("bert", base=str(tmp_path / "m" / "adapter"))


def test_a_merged_model_is_a_base_again(tmp_path, bases):
    adapted = move(build("bert", Adapter(kind="lora"), base=bases("bert")))
    save_model(adapted, TOKENIZER, make_spec(), tmp_path / "m")
    again = build("bert", Adapter(kind="dora"), base=str(tmp_path / "m"))
    merged = dict(adapted.encoder.named_parameters())
    kept = {name.replace(".base_layer", ""): each for name, each in again.encoder.named_parameters()}
    assert all(torch.equal(kept[name], weight) for name, weight in merged.items())


def test_the_seed_alone_decides_about_a_new_adapter(bases):
    base = bases("bert")
    adapter = Adapter(kind="dora")
    rank_0, other_rank = (build("bert", adapter, base=base, load_weights=load) for load in (True, False))
    other_seed = build("bert", adapter, base=base, seed=2)
    for name, weight in rank_0.state_dict().items():
        assert torch.equal(weight, other_rank.state_dict()[name]), name
        is_random = "lora_A" in name or name == "head.weight"
        assert torch.equal(weight, other_seed.state_dict()[name]) != is_random or name == "head.bias", name


def test_named_layers_get_an_adapter_and_unknown_ones_are_refused():
    adapted = build("llama", Adapter(kind="lora", target_modules=("q_proj", "mlp.up_proj")))
    found = {name.partition(".lora_")[0] for name in read_state(adapted)}
    assert found == {"decoder.model.layers.0.self_attn.q_proj", "decoder.model.layers.0.mlp.up_proj"}
    with pytest.raises(
        ValueError, match=r"no linear layer is called 'lm_head'; .* end in down_proj, gate_proj"
    ):
        build("llama", Adapter(kind="lora", target_modules=("q_proj", "lm_head")))


def test_a_model_without_layers_to_adapt_is_refused():
    architecture = Architecture(config=TINY_BERT, frozen=("encoder.",), adapter=Adapter(kind="lora"))
    with pytest.raises(
        ValueError, match=r"bert has no linear layer that could get an adapter; look at finetune"
    ):
        build_model(architecture, make_spec(), vocab_size=260, seed=1)


def test_a_plan_says_what_is_trained():
    assert Adapter(rank=3).describe() == {}
    lora = Adapter(kind="lora", rank=3, alpha=5).describe()["adapter"]
    assert lora.startswith("lora of rank 3 and alpha 5 on all linear layers; the base stays as it is")
    assert lora.endswith("holds whole weights and the adapter")
    alone = Adapter(kind="dora", target_modules=("query", "key"), merge=False).describe()["adapter"]
    assert " on query, key; " in alone
    assert alone.endswith("holds the adapter alone")


def test_layers_that_no_loss_reaches_get_none():
    config = {"model_type": "albert", **SIZES, "embedding_size": 8}  # its pooler can't be left out
    architecture = Architecture(config=config, adapter=Adapter(kind="lora"))
    adapted = build_model(architecture, make_spec(), vocab_size=260, seed=1)
    assert any("attention.query.lora_A" in name for name in read_state(adapted))
    assert not any("pooler" in name for name in read_state(adapted))


def test_a_layer_that_is_not_called_is_refused():
    class Reads(nn.Module):
        """Reads the weight of a layer and does not call it."""

        def __init__(self, inner):
            super().__init__()
            self.query = inner

        def forward(self, hidden):
            return nn.functional.linear(hidden, self.query.weight, self.query.bias)

    module = build("bert")
    attention = module.encoder.encoder.layer[0].attention.self
    attention.query = Reads(attention.query)
    with pytest.raises(
        ValueError, match=r"attention.self.query.query has no effect, because the model reads"
    ):
        attach_adapter(module, Adapter(kind="lora"), BaseWeights(sha256="", name=None), "AutoModel")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kind": "lorra"},
            "kind must be lora, rslora, dora, adalora, bottleneck, prefix or null, got 'lorra'",
        ),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0}, "alpha must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"target_modules": ()}, "target_modules must be all_linear or name a layer"),
    ],
)
def test_settings_that_can_not_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Adapter(**fields)
    assert Adapter(kind="lora", rank=1, alpha=1, dropout=0.99, target_modules=("q",)).merge


def test_an_adapter_alone_needs_a_base_with_a_name():
    with pytest.raises(ValueError, match=r"merge=false needs finetune.model.base, .*set merge=true"):
        Architecture(config=TINY_BERT, adapter=Adapter(kind="lora", merge=False))


def test_trainings_without_an_adapter_keep_their_identity():
    assert "adapter" not in Architecture(config=TINY_BERT, adapter=Adapter(rank=4)).identity()
    kinds = [
        Architecture(config=TINY_BERT, adapter=Adapter(kind=kind)).identity() for kind in ("lora", "dora")
    ]
    assert kinds[0] != kinds[1]
