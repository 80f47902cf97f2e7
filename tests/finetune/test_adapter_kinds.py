"""AdaLoRA, bottlenecks and prefixes in a model: what they add, what their folders hold, what PEFT reads."""

import copy
import json

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import gelu
from transformers import AutoModel, AutoModelForCausalLM

from pipelines.finetune.models.activations import recompute_activations
from pipelines.finetune.models.adapter import Adapter, RankSchedule, read_base
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.cached import CachedRows, keeps_values
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.finetune.models.lora import count_parameters, list_frozen, merge_adapter, read_state
from tests.finetune.test_adapters import IDS, KINDS, MASK, MODELS, NAMES, TOKENIZER, bases, build
from tests.finetune.test_model import SIZES, TINY_BERT, TINY_LLAMA, logits, make_spec

__all__ = ["bases"]  # a fixture
NEW = pytest.mark.parametrize("kind", ["adalora", "bottleneck", "prefix"])


def adapter(kind, **fields):
    return Adapter(kind=kind, **({"prefix_tokens": 3} if kind == "prefix" else {"rank": 4}), **fields)


def move(module):
    """Random values in all that is trained, as after some training."""
    torch.manual_seed(5)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module.eval()


@NAMES
@NEW
def test_the_adapter_is_trained_alone_and_a_folder_gives_the_same_logits(tmp_path, bases, name, kind):
    base = bases(name)
    plain, adapted = build(name, base=base).eval(), build(name, adapter(kind, merge=False), base=base).eval()
    changed = not torch.equal(logits(adapted, IDS, MASK), logits(plain, IDS, MASK))
    assert changed == (kind == "prefix")  # the others start at zero
    own = {"adalora": "lora_", "bottleneck": "houlsby_layers", "prefix": "prefix_tokens"}[kind]
    trained = {each for each, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == read_state(adapted).keys()
    assert all(own in each or each.startswith("head.") for each in trained)
    frozen = {each for each in list_frozen(adapted) if "ranknum" not in each}  # a constant of PEFT
    assert len(frozen) == len([each for each in plain.state_dict() if not each.startswith("head.")])
    # By hand. adalora starts with 6 = 1.5 x 4, a direction has inputs + outputs + 1 numbers. A bottleneck
    # stands behind two layers of 16 outputs; a prefix has 3 tokens of a key and a value of 16 in one layer.
    layers = {
        "bert": [(16, 16)] * 4 + [(16, 32), (32, 16)],
        "llama": [(16, 16)] * 4 + [(16, 32)] * 2 + [(32, 16)],
        "gpt2": [(16, 48), (16, 16), (16, 64), (64, 16)],
    }[name]
    numbers = {
        "adalora": sum(6 * (inputs + outputs + 1) for inputs, outputs in layers),
        "bottleneck": 2 * (2 * 4 * 16 + 4 + 16),
        "prefix": 3 * 2 * 16,
    }
    assert count_parameters(adapted)[0] == numbers[kind] + (34 if name == "bert" else 0)
    before = logits(move(adapted), IDS, MASK)
    assert (before - logits(plain, IDS, MASK)).abs().max() > 1e-3
    save_model(adapted, TOKENIZER, make_spec(MODELS[name][0], end_token_id=1), tmp_path / "m")
    assert torch.equal(logits(load_model(tmp_path / "m").module, IDS, MASK), before)
    assert not (tmp_path / "m" / "model.safetensors").exists()


def test_merged_adalora_follows_its_formula(tmp_path, bases):
    adapted = move(build("llama", adapter("adalora", alpha=5), base=bases("llama")))
    before, layer = logits(adapted, IDS, MASK), adapted.decoder.model.layers[0].self_attn.q_proj
    down, scale, up = (getattr(layer, f"lora_{each}")["default"].detach() for each in "AEB")
    expected = layer.base_layer.weight.detach() + 5 / 6 * up @ torch.diag(scale[:, 0]) @ down
    merge_adapter(adapted)
    merged = adapted.decoder.model.layers[0].self_attn.q_proj
    assert type(merged) is torch.nn.Linear
    torch.testing.assert_close(merged.weight, expected, rtol=1e-5, atol=1e-6)
    assert (logits(adapted, IDS, MASK) - before).abs().max() < 1e-5
    assert list_frozen(adapted) == set()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@NAMES
@pytest.mark.parametrize("kind", ["adalora", "prefix"])
def test_peft_reads_the_folder(tmp_path, bases, name, kind):
    base = bases(name)
    adapted = move(build(name, adapter(kind, merge=False), base=base))
    ids, mask = torch.tensor(IDS), torch.tensor(MASK)
    save_model(adapted, TOKENIZER, make_spec(MODELS[name][0], end_token_id=1), tmp_path / "m")
    auto = AutoModel if name == "bert" else AutoModelForCausalLM
    theirs = PeftModel.from_pretrained(
        auto.from_pretrained(base, attn_implementation="eager"), tmp_path / "m" / "adapter"
    ).eval()
    with torch.no_grad():
        ours = (adapted.encoder if name == "bert" else adapted.decoder)(input_ids=ids, attention_mask=mask)[0]
        torch.testing.assert_close(theirs(input_ids=ids, attention_mask=mask)[0], ours, rtol=1e-5, atol=1e-5)


def test_a_bottleneck_adds_its_network_to_the_output_of_a_layer(bases):
    adapted = move(build("bert", adapter("bottleneck"), base=bases("bert")))
    layer = adapted.encoder.encoder.layer[0].output.dense
    mine = layer.houlsby_layers["default"]
    inputs = torch.randn(3, 32)
    plain = inputs @ layer.weight.T + layer.bias
    middle = gelu(plain @ mine.down.weight.T + mine.down.bias)
    torch.testing.assert_close(layer(inputs), plain + middle @ mine.up.weight.T + mine.up.bias)


def test_bottlenecks_stand_behind_attention_and_feed_forward_or_where_they_are_wanted(bases):
    def find(module):
        return {each.partition(".houlsby_layers")[0] for each in read_state(module) if "houlsby" in each}

    layer = "encoder.encoder.layer.0."
    base = bases("bert")
    found = find(build("bert", adapter("bottleneck"), base=base))
    assert found == {f"{layer}attention.output.dense", f"{layer}output.dense"}
    chosen = adapter("bottleneck", target_modules=("intermediate.dense",))
    assert find(build("bert", chosen, base=base)) == {f"{layer}intermediate.dense"}


@NEW
def test_a_copy_of_the_model_uses_its_own_adapter(bases, kind):
    """As the reference of a preference training is."""
    adapted = move(build("llama", adapter(kind, merge=False), base=bases("llama")))
    copied, before = copy.deepcopy(adapted), logits(adapted, IDS, MASK)
    move(adapted)
    assert torch.equal(logits(copied, IDS, MASK), before)
    assert not torch.equal(logits(adapted, IDS, MASK), before)


def test_kept_keys_and_values_begin_with_the_prefix(bases):
    """What generation reads: rows of different lengths, which grow by a token."""
    adapted = move(build("llama", Adapter(kind="prefix", prefix_tokens=3), base=bases("llama")))
    assert keeps_values(adapted)
    rows, grown = CachedRows(adapted), [[5, 6, 7], [8, 9]]
    for _ in range(3):
        found = rows.predict(grown, [0, 1])
        for row, next_V in zip(grown, found, strict=True):
            torch.testing.assert_close(next_V, logits(adapted, [row])[0, -1], rtol=1e-4, atol=1e-5)
        grown = [[*row, 11] for row in grown]
    adapted.decoder.model.prefix_tokens.active = None
    assert (logits(adapted, [grown[0][:-1]])[0, -1] - found[0]).abs().max() > 1e-2


def test_what_a_prefix_can_not_do_is_refused(tmp_path, bases):
    adapted = build("llama", Adapter(kind="prefix"), base=bases("llama"))
    assert adapted.separates_documents is False
    with pytest.raises(ValueError, match=r"activation_checkpointing drops the keys and values of a prefix"):
        recompute_activations(adapted)
    config = {"model_type": "albert", **SIZES, "embedding_size": 8}
    plain = build_model(Architecture(config=config), make_spec(), vocab_size=260, seed=1)
    plain.encoder.save_pretrained(tmp_path / "albert")
    architecture = Architecture(base=str(tmp_path / "albert"), adapter=Adapter(kind="prefix"))
    with pytest.raises(ValueError, match=r"model type albert takes no prefix, .*kind=bottleneck or lora"):
        build_model(architecture, make_spec(), vocab_size=260, seed=1)


def test_a_prefix_needs_positions_of_its_own(tmp_path):
    config = {**TINY_LLAMA, "max_position_embeddings": 12}
    spec = make_spec("language_modelling")  # of 8 tokens
    build_model(Architecture(config=config), spec, vocab_size=260, seed=1).decoder.save_pretrained(
        tmp_path / "b"
    )
    for tokens in (4, 5):
        architecture = Architecture(
            base=str(tmp_path / "b"), adapter=Adapter(kind="prefix", prefix_tokens=tokens)
        )
        if tokens == 4:
            build_model(architecture, spec, vocab_size=260, seed=1)
            continue
        with pytest.raises(
            ValueError, match=r"is 8 tokens and .*prefix_tokens 5, but the model \(llama\) has 12 .*lower one"
        ):
            build_model(architecture, spec, vocab_size=260, seed=1)


@NEW
def test_a_damaged_folder_is_refused(tmp_path, bases, kind):
    adapted = build("bert", adapter(kind, merge=False), base=bases("bert"))
    save_model(adapted, TOKENIZER, make_spec(), tmp_path / "m")
    file = tmp_path / "m" / "adapter" / "adapter_config.json"
    fields = json.loads(file.read_text())
    assert read_base(file.parent).name == fields["base_model_name_or_path"]
    changes = {"adalora": {"init_r": 7}, "bottleneck": {"target_modules": []}, "prefix": {"num_layers": 2}}
    for change in (changes[kind], {"peft_type": "IA3"}):
        file.write_text(json.dumps({**fields, **change}))
        with pytest.raises(
            ValueError, match=r"(?s)does not fit its own configuration: .*; restore the files"
        ):
            load_model(tmp_path / "m")


def test_which_folder_is_written_depends_on_the_kind():
    merged = {kind: Adapter(kind=kind).merge for kind in ("lora", "dora", "adalora", "bottleneck", "prefix")}
    assert merged == {"lora": True, "dora": True, "adalora": True, "bottleneck": False, "prefix": False}
    for kind in ("bottleneck", "prefix"):
        message = rf"merge is true, but kind {kind} can't be added .*set finetune.model.adapter.merge=false"
        with pytest.raises(ValueError, match=message):
            Adapter(kind=kind, merge=True)
        with pytest.raises(ValueError, match=r"can't be found again; name a base"):
            Architecture(config=TINY_BERT, adapter=Adapter(kind=kind))


@KINDS
def test_trainings_of_the_first_kinds_keep_their_identity(kind):
    identity = Architecture(base="b", adapter=Adapter(kind=kind)).identity()["adapter"]
    first = {"rank": 16, "alpha": 32, "dropout": 0.0, "target_modules": "all_linear", "merge": True}
    assert identity == {"kind": kind, **first}
    others = {each: set(Adapter(kind=each).identity()) - set(identity) for each in ("adalora", "prefix")}
    assert others == {"adalora": {"adalora"}, "prefix": {"prefix_tokens"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "prefix", "dropout": 0.1}, r"kind prefix has no dropout and no target_modules, got 0.1"),
        ({"kind": "prefix", "target_modules": ("q",)}, r"no target_modules, got 0.0 and \('q',\)"),
        (
            {"kind": "adalora", "rank": 8, "adalora": RankSchedule(initial_rank=0)},
            r"initial_rank must be greater than rank \(8\), got 0",
        ),
        ({"prefix_tokens": 0}, r"prefix_tokens must be at least 1, got 0"),
        (
            {"kind": "adalora", "rank": 8, "adalora": RankSchedule(initial_rank=8)},
            r"initial_rank must be greater than rank \(8\), got 8",
        ),
    ],
)
def test_settings_that_can_not_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Adapter(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup_fraction": 1.0}, r"warmup_fraction must be in \[0, 1\), got 1.0"),
        ({"warmup_fraction": 0.5, "final_fraction": 0.5}, "must leave steps between them, got 0.5 and 0.5"),
        ({"every_steps": 0}, "every_steps must be at least 1, got 0"),
        ({"orthogonality": float("inf")}, "orthogonality must be at least 0 and finite, got inf"),
    ],
)
def test_schedules_that_can_not_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RankSchedule(**fields)


@pytest.mark.parametrize(("steps", "planned"), [(100, (10, 20)), (1, (0, 0)), (2, (0, 0)), (7, (1, 1))])
def test_a_schedule_leaves_a_step_for_the_choice(steps, planned):
    assert RankSchedule().plan(steps) == planned
    first, last = RankSchedule(warmup_fraction=0.49, final_fraction=0.5).plan(steps)
    assert first + last < steps
