"""Packed documents do not see each other: position ids and document mask, on tiny models of several
architectures.
"""

import numpy as np
import pytest
import torch

from pipelines.dataset.tokenizer import train_bpe
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import GPU_ATTENTION, build_model
from pipelines.finetune.tasks.table import build_task
from tests.finetune.test_task import CPU, make_rows, make_spec

HIDDEN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA_LIKE = {**HIDDEN, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
DECODERS = {
    "llama": {"model_type": "llama", **LLAMA_LIKE},
    "qwen2": {"model_type": "qwen2", **LLAMA_LIKE},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    # A window shorter than the documents: a ready mask of ours would replace it.
    "mistral": {"model_type": "mistral", **LLAMA_LIKE, "sliding_window": 3},
}
LENGTHS = (5, 1, 7)
FIRST, MIDDLE, LAST = slice(0, 5), slice(5, 6), slice(6, 13)
TASK = build_task(make_spec())


def build(model_type, vocab_size=64, **changes):
    architecture = Architecture(config={**DECODERS[model_type], **changes})
    return build_model(architecture, make_spec(), vocab_size=vocab_size, seed=1).eval()


def packed_logits(model, tokens, lengths=LENGTHS):
    # A second, longer row makes padding of the first.
    rows = make_rows(tokens, list(range(3, 19)), segments=[list(lengths), [16]])
    with torch.no_grad():
        return model(**TASK.collate(rows, CPU).inputs)[0]


def alone_logits(model, tokens):
    with torch.no_grad():
        return model(**TASK.collate(make_rows(tokens), CPU).inputs)[0]


TOKENS = np.random.default_rng(0).integers(3, 60, sum(LENGTHS))


@pytest.mark.parametrize("model_type", DECODERS)
@pytest.mark.parametrize("changed", [FIRST, MIDDLE, LAST], ids=["first", "middle", "last"])
def test_a_changed_document_leaves_its_neighbours_alone(model_type, changed):
    model = build(model_type)
    other = TOKENS.copy()
    other[changed] = (other[changed] + 17) % 60
    change = (packed_logits(model, TOKENS) - packed_logits(model, other)).abs().amax(-1).numpy()[:13]
    inside = np.zeros(13, bool)
    inside[changed] = True
    assert change[~inside].max() <= 1e-6
    assert change[inside].min() > 1e-3


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_packed_document_has_the_logits_it_has_alone(model_type):
    model = build(model_type)
    packed = packed_logits(model, TOKENS)
    for part in (FIRST, MIDDLE, LAST):
        torch.testing.assert_close(packed[part], alone_logits(model, TOKENS[part]), atol=1e-5, rtol=0)
    # The trap of the test: without a mask the last document would look different.
    assert (alone_logits(model, TOKENS)[LAST] - packed[LAST]).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", DECODERS)
def test_the_attention_of_gpus_keeps_documents_apart_too(model_type):
    model = build(model_type)
    eager = packed_logits(model, TOKENS)
    model.decoder.set_attn_implementation(GPU_ATTENTION)
    assert model.decoder.config._attn_implementation == GPU_ATTENTION == "sdpa"
    assert model.probe_separation() is True
    torch.testing.assert_close(packed_logits(model, TOKENS), eager, atol=1e-5, rtol=0)


def test_the_sliding_window_is_shorter_than_the_documents():
    wide = build("mistral", sliding_window=64)
    assert (packed_logits(wide, TOKENS) - packed_logits(build("mistral"), TOKENS)).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", DECODERS)
def test_rows_of_one_document_take_the_plain_path(model_type):
    model = build(model_type)
    tokens = torch.tensor([[5, 6, 7], [8, 9, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        ours = model(**TASK.collate(make_rows([5, 6, 7], [8, 9]), CPU).inputs)
        plain = model.decoder(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    assert torch.equal(ours, plain)


def test_a_state_space_model_refuses_packed_rows():
    config = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    model = build_model(Architecture(config=config), make_spec(), vocab_size=64, seed=1).eval()
    assert alone_logits(model, TOKENS).shape == (13, 64)  # rows of one document are fine
    with pytest.raises(ValueError, match=r"model type mamba lets .* set dataset.packing.method=one_per_doc"):
        packed_logits(model, TOKENS)


def test_packed_rows_without_positions_are_refused():
    ids = torch.tensor([[5, 6]])
    with pytest.raises(ValueError, match="need position_ids_BT"):
        build("llama")(input_ids_BT=ids, attention_mask_BT=ids > 0, segment_ids_BT=ids)


def test_the_probe_changes_neither_weights_nor_mode():
    model = build("llama").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert model.probe_separation() is True
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_probe_finds_a_leak(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(
        type(model),
        "_packed_logits",
        lambda self, ids, positions: self.decoder(input_ids=ids, use_cache=False).logits,
    )
    assert model.probe_separation() is False


def test_the_probe_needs_logits_that_change(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(type(model), "_packed_logits", lambda self, ids, positions: torch.zeros(1, 12, 64))
    assert model.probe_separation() is False


def test_a_sample_continues_the_first_document_only():
    tokenizer = train_bpe(iter(["some text"]), vocab_size=260)
    model = build("llama", vocab_size=260).train()
    first, second = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("ab", "cd"))
    rows = make_rows(first + second, first, segments=[[len(first), len(second)], [len(first)]])
    text = TASK.sample_text(model, tokenizer, rows)
    assert text.count("[prompt] ab\n[model]  ") == 2
    assert "[prompt] abcd" not in text
    # By hand: the two rows have the same prompt, so the same continuation.
    one, two = (part.split("[model]  ")[1].strip() for part in text.split("[prompt]")[1:])
    assert one == two
    assert model.training


def test_a_task_without_text_has_no_sample():
    task = build_task(make_spec("classification", ("a", "b")))
    assert (
        task.sample_text(torch.nn.Linear(1, 1), train_bpe(iter(["a"]), vocab_size=260), make_rows([1]))
        is None
    )
