import pytest
import safetensors.torch
import torch

from pipelines.dataset.tokenizer import train_bpe
from pipelines.finetune.models.architecture import Architecture, ModelSpec, read_metric, read_spec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model, save_model

TINY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
TINY_BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def spec(task: str) -> ModelSpec:
    labels = ("甲", "b") if task == "classification" else ()
    return ModelSpec(task=task, labels=labels, max_tokens=8, base="scratch", tokenizer="t")


@pytest.mark.parametrize(
    ("task", "config"), [("classification", TINY_BERT), ("language_modelling", TINY_LLAMA)]
)
def test_a_saved_model_gives_the_same_logits_and_no_pickle(tmp_path, task, config):
    tokenizer = train_bpe(iter(["some text"]), vocab_size=260)
    module = build_model(Architecture(config=config), spec(task), vocab_size=260, seed=1).eval()
    save_model(module, tokenizer.to_str(), spec(task), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    ids_BT, mask_BT = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert torch.equal(loaded.module(ids_BT, mask_BT), module(ids_BT, mask_BT))
    assert loaded.spec == spec(task) == read_spec(tmp_path / "model")
    assert (
        sorted(
            path.name
            for path in (tmp_path / "model").iterdir()
            if path.suffix not in (".json", ".safetensors")
        )
        == []
    )


def test_padding_does_not_change_the_logits_of_a_row():
    module = build_model(Architecture(config=TINY_BERT), spec("classification"), vocab_size=50, seed=1).eval()
    alone = module(torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.long))
    padded = module(torch.tensor([[5, 6, 9, 9]]), torch.tensor([[1, 1, 0, 0]]))
    torch.testing.assert_close(alone, padded)


def test_equal_seeds_give_equal_models_and_others_do_not():
    first, same, other = (
        build_model(
            Architecture(config=TINY_BERT), spec("classification"), vocab_size=50, seed=seed
        ).head.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_settings_that_the_model_type_does_not_have_are_named():
    with pytest.raises(ValueError, match=r"bert has no setting hiden_size; its settings: .*hidden_size"):
        build_model(
            Architecture(config={"model_type": "bert", "hiden_size": 3}),
            spec("classification"),
            vocab_size=50,
            seed=0,
        )
    with pytest.raises(ValueError, match=r"needs base .* or config.model_type"):
        Architecture().start()


def test_weights_without_all_layers_or_with_a_smaller_vocabulary_are_refused(tmp_path):
    module = build_model(Architecture(config=TINY_BERT), spec("classification"), vocab_size=50, seed=1)
    module.encoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tokenizer has 60 tokens, the model knows 50"):
        build_model(Architecture(base=str(tmp_path)), spec("classification"), vocab_size=60, seed=1)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.0.output.dense.weight")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks weights of its own architecture: .*layer.0.output.dense.weight"
    ):
        build_model(Architecture(base=str(tmp_path)), spec("classification"), vocab_size=50, seed=1)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "bert", "max_position_embeddings": 64}, 64),
        (
            {"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1},
            64,
        ),  # counts from behind the padding token
    ],
)
def test_sequences_longer_than_the_model_has_positions_are_refused(config, positions):
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        **config,
    }

    def build(max_tokens):
        spec = ModelSpec(
            task="classification", labels=("a", "b"), max_tokens=max_tokens, base="scratch", tokenizer="t"
        )
        return build_model(Architecture(config=small), spec, vocab_size=50, seed=0)

    ids = torch.full((1, positions), 7)
    assert build(positions)(ids, torch.ones_like(ids)).shape == (1, 2)
    with pytest.raises(
        ValueError, match=rf"is {positions + 1} tokens, but the model .* has {positions} positions"
    ):
        build(positions + 1)


def test_a_pickled_model_is_never_opened(tmp_path):
    module = build_model(Architecture(config=TINY_BERT), spec("classification"), vocab_size=50, seed=1)
    module.config.save_pretrained(tmp_path)
    torch.save(module.encoder.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        build_model(Architecture(base=str(tmp_path)), spec("classification"), vocab_size=50, seed=1)


def test_a_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        load_model(tmp_path)


def test_frozen_parts_have_no_gradient_and_an_unknown_part_is_named():
    frozen = Architecture(config=TINY_BERT, frozen=("word_embeddings",))
    module = build_model(frozen, spec("classification"), vocab_size=50, seed=1)
    assert [name for name, parameter in module.named_parameters() if not parameter.requires_grad] == [
        "encoder.embeddings.word_embeddings.weight"
    ]
    with pytest.raises(
        ValueError,
        match=r"no parameter's name contains 'word_embedings'; the first ones are encoder.embeddings",
    ):
        build_model(
            Architecture(config=TINY_BERT, frozen=("word_embedings",)),
            spec("classification"),
            vocab_size=50,
            seed=1,
        )
