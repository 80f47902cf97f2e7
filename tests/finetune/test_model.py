"""Models and their folder: equal logits after saving, equal models from equal seeds, refused input, frozen
parameters.
"""

import json
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from pipelines.dataset.tokenizer import train_bpe
from pipelines.finetune.models.architecture import SPEC_FILE, Architecture, ModelSpec, parse_use, read_spec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.finetune.models.freeze import freeze_unused

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY_LLAMA = {"model_type": "llama", **SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True}
TINY_BERT = {"model_type": "bert", **SIZES}


def make_spec(task: str = "classification", **fields) -> ModelSpec:
    labels = ("甲", "b") if task == "classification" else ()
    known = {"max_tokens": 8, "base": "scratch", "tokenizer": "t"}
    return ModelSpec(task=task, labels=labels, **{**known, **fields})


def build(config=TINY_BERT, *, task="classification", vocab_size=50, seed=1, **options):
    architecture = Architecture(config=config) if isinstance(config, dict) else config
    return build_model(architecture, make_spec(task), vocab_size=vocab_size, seed=seed, **options)


def logits(module, ids, mask=None):
    ids_BT = torch.tensor(ids)
    mask_BT = torch.ones_like(ids_BT) if mask is None else torch.tensor(mask)
    with torch.no_grad():
        return module(input_ids_BT=ids_BT, attention_mask_BT=mask_BT)


@pytest.mark.parametrize(
    ("task", "config", "metric"),
    [("classification", TINY_BERT, "accuracy"), ("language_modelling", TINY_LLAMA, "bits_per_byte")],
)
def test_a_saved_model_gives_the_same_logits(tmp_path, task, config, metric):
    tokenizer = train_bpe(iter(["some text"]), vocab_size=260)
    spec = make_spec(task, end_token_id=1)
    module = build(config, task=task, vocab_size=260).eval()
    save_model(module, tokenizer.to_str(), spec, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    ids, mask = [[5, 6, 7], [8, 9, 0]], [[1, 1, 1], [1, 1, 0]]
    assert torch.equal(logits(loaded.module, ids, mask), logits(module, ids, mask))
    assert loaded.spec == spec == read_spec(tmp_path / "model")
    assert parse_use((tmp_path / "model" / SPEC_FILE).read_bytes(), "") == (metric, False, task)
    suffixes = {path.suffix for path in (tmp_path / "model").iterdir()}
    assert suffixes == {".json", ".safetensors"}  # no pickle


def test_a_folder_from_before_end_tokens_still_loads(tmp_path):
    save_model(build(), train_bpe(iter(["a"]), vocab_size=260).to_str(), make_spec(), tmp_path)
    file = tmp_path / "model_spec.json"
    fields = json.loads(file.read_text())
    del fields["end_token_id"]
    file.write_text(json.dumps(fields))
    assert load_model(tmp_path).spec.end_token_id is None


def test_padding_does_not_change_the_logits_of_a_row():
    module = build().eval()
    padded = logits(module, [[5, 6, 9, 9]], [[1, 1, 0, 0]])
    torch.testing.assert_close(logits(module, [[5, 6]]), padded)


def test_equal_seeds_give_equal_models():
    first, same, other = (build(seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("task", "config"), [("classification", TINY_BERT), ("language_modelling", TINY_LLAMA)]
)
def test_a_structure_without_weights_takes_those_of_rank_0(tmp_path, task, config):
    source = build(config, task=task, seed=7)
    (source.encoder if task == "classification" else source.decoder).save_pretrained(tmp_path)
    architecture = Architecture(base=str(tmp_path), frozen=("embed",))
    whole = build(architecture, task=task).eval()
    structure = build(architecture, task=task, load_weights=False).eval()

    assert not torch.equal(logits(whole, [[5, 6, 7]]), logits(structure, [[5, 6, 7]]))  # not read
    for ours, theirs in zip(whole.named_parameters(), structure.named_parameters(), strict=True):
        assert (ours[0], ours[1].shape, ours[1].dtype) == (theirs[0], theirs[1].shape, theirs[1].dtype)
        assert ours[1].requires_grad == theirs[1].requires_grad
    structure.load_state_dict(whole.state_dict())
    assert torch.equal(logits(whole, [[5, 6, 7]]), logits(structure, [[5, 6, 7]]))


def test_a_structure_needs_no_weights_file(tmp_path):
    build().encoder.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert logits(build(Architecture(base=str(tmp_path)), load_weights=False), [[5, 6]]).shape == (1, 2)


def test_overridden_settings_reach_a_structure_without_weights(tmp_path):
    build().encoder.save_pretrained(tmp_path)
    architecture = Architecture(base=str(tmp_path), config={"hidden_dropout_prob": 0.25})
    assert build(architecture).dropout.p == build(architecture, load_weights=False).dropout.p == 0.25


def test_settings_that_the_model_type_lacks_are_named():
    with pytest.raises(ValueError, match=r"bert has no setting hiden_size; its settings: .*hidden_size"):
        build({"model_type": "bert", "hiden_size": 3})
    with pytest.raises(ValueError, match=r"needs base .* or config.model_type"):
        Architecture().start()


def test_incomplete_weights_and_small_vocabularies_are_refused(tmp_path):
    build().encoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tokenizer has 60 tokens, the model knows 50"):
        build(Architecture(base=str(tmp_path)), vocab_size=60)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.0.output.dense.weight")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks weights of its own architecture: .*layer.0.output.dense.weight"
    ):
        build(Architecture(base=str(tmp_path)))


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "bert", "max_position_embeddings": 64}, 64),
        # RoBERTa counts from behind the padding token.
        ({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}, 64),
    ],
)
def test_sequences_longer_than_the_positions_are_refused(config, positions):
    def build_for(max_tokens):
        spec = make_spec(max_tokens=max_tokens)
        return build_model(Architecture(config={**SIZES, **config}), spec, vocab_size=50, seed=0)

    assert logits(build_for(positions), [[7] * positions]).shape == (1, 2)
    with pytest.raises(
        ValueError, match=rf"is {positions + 1} tokens, but the model .* has {positions} positions"
    ):
        build_for(positions + 1)


def test_a_pickled_model_is_never_opened(tmp_path):
    module = build()
    module.config.save_pretrained(tmp_path)
    torch.save(module.encoder.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        build(Architecture(base=str(tmp_path)))


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        load_model(tmp_path)


def test_frozen_parts_are_not_trained_and_unknown_ones_named():
    module = build(Architecture(config=TINY_BERT, frozen=("word_embeddings",)))
    assert [name for name, parameter in module.named_parameters() if not parameter.requires_grad] == [
        "encoder.embeddings.word_embeddings.weight"
    ]
    with pytest.raises(
        ValueError,
        match=r"no parameter's name contains 'word_embedings'; the first ones are encoder.embeddings",
    ):
        build(Architecture(config=TINY_BERT, frozen=("word_embedings",)))


@pytest.mark.parametrize(
    ("task", "config", "unused"),
    [
        ("classification", TINY_BERT, 0),  # its pooler is left out
        ("classification", {"model_type": "albert", **SIZES, "embedding_size": 8}, 2),
        ("classification", {"model_type": "mpnet", **SIZES}, 2),
        ("language_modelling", TINY_LLAMA, 0),
    ],
    ids=["bert", "albert", "mpnet", "llama"],
)
def test_every_trained_parameter_gets_a_gradient(task, config, unused):
    module = build(config, task=task)
    module(input_ids_BT=torch.tensor([[5, 6, 7]]), attention_mask_BT=torch.ones(1, 3)).sum().backward()
    named = dict(module.named_parameters())
    frozen = [name for name, parameter in named.items() if not parameter.requires_grad]
    assert len(frozen) == unused
    assert all("pooler" in name for name in frozen)
    assert [name for name, each in named.items() if each.requires_grad and each.grad is None] == []


class Routed(torch.nn.Module):
    """A router that sends all tokens of a short text to one of its experts, and a layer that nothing uses."""

    config = SimpleNamespace(vocab_size=50)

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 4)
        self.experts = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])
        self.unused = torch.nn.Linear(4, 4)

    def forward(self, input_ids_BT, attention_mask_BT):
        return self.experts[0](self.embedding(input_ids_BT))


def test_experts_that_a_router_may_choose_stay_trained():
    module = Routed()
    assert freeze_unused(module) == ["unused.weight", "unused.bias"]
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    assert frozen == ["unused.weight", "unused.bias"]


def test_probes_leave_the_random_stream_of_weights_alone():
    # By definition of the seed: a twin built straight from transformers, encoder first, then head.
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(1)
    encoder = AutoModel.from_config(
        AutoConfig.for_model(**TINY_BERT, vocab_size=50), attn_implementation="eager", add_pooling_layer=False
    )
    head = torch.nn.Linear(16, 2)
    module = build(seed=1)
    assert torch.equal(module.head.weight, head.weight)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(module.encoder.parameters(), encoder.parameters(), strict=True)
    )
