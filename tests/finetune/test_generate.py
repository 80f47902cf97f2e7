"""Generation with a cache writes what generation without one writes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

from pipelines.finetune.models import cached
from pipelines.finetune.models.cached import CachedRows, WholeRows, keeps_values, open_rows
from pipelines.finetune.models.decoder import Decoder
from pipelines.finetune.models.generate import generate_greedily
from pipelines.finetune.models.preference import PreferenceDecoder
from tests.finetune.test_documents import build

PROMPTS = [[5, 6, 7], [8] * 11, [], [9], [3, 1, 4, 1, 5, 9, 2, 6]]
"""Of different lengths; from an empty one nothing follows."""
OTHERS = {
    "bloom": BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2),
    "mamba": MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4),
}
WITH_CACHE = ["llama", "qwen2", "gpt2", "mistral"]
"""mistral has a sliding window of 3 tokens, shorter than the prompts."""


def make(model_type):
    if model_type in OTHERS:
        model = Decoder(AutoModelForCausalLM.from_config(OTHERS[model_type])).eval()
    else:
        model = build(model_type).eval()
    cached._keeps.clear()
    torch.manual_seed(1)
    for parameter in model.parameters():  # far from 0: new weights write the same token for ever
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def write_without_cache(model, prompts, most, stop_ids):
    """One forward pass of one whole row for each token."""
    written = []
    for prompt, number in zip(prompts, most, strict=True):
        row = list(prompt)
        while prompt and len(row) < len(prompt) + number:
            logits_1TV = model(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool))
            row.append(int(logits_1TV[0, -1].argmax()))
            if row[-1] in stop_ids:
                break
        written.append(row[len(prompt) :])
    return written


@pytest.mark.parametrize("model_type", WITH_CACHE)
def test_with_a_cache_the_same_tokens_are_written(model_type):
    model = make(model_type)
    assert isinstance(open_rows(model), CachedRows)
    most = [14, 9, 5, 20, 0]
    with torch.inference_mode():
        free = write_without_cache(model, PROMPTS, most, ())
    assert [len(row) for row in free] == [14, 9, 0, 20, 0]
    assert len({token for row in free for token in row}) > 5
    stop = free[3][4]  # ends a row in the middle; others go on without it
    with torch.inference_mode():
        stopped = write_without_cache(model, PROMPTS, most, {stop})
    assert len(stopped[3]) < 20
    assert generate_greedily(model, PROMPTS, max_new_tokens=most, stop_ids=()) == free
    assert generate_greedily(model, PROMPTS, max_new_tokens=most, stop_ids={stop}) == stopped


@pytest.mark.parametrize("model_type", [*WITH_CACHE, "bloom"])  # bloom counts positions by the mask
def test_logits_with_a_cache_are_those_of_whole_rows(model_type):
    model, rows, kept = make(model_type), [row for row in PROMPTS if row], [0, 1, 2, 3]
    few, whole = CachedRows(model), WholeRows(model)
    for gone in (None, None, 1, None, 0, None):
        if gone is not None:
            kept = [place for place in range(len(rows)) if place != gone]
        with torch.inference_mode():
            found, expected = (each.predict([rows[place] for place in kept], kept) for each in (few, whole))
        assert found.shape == (len(kept), model.config.vocab_size)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        rows = [[*rows[place], 17 + place] for place in kept]
        kept = list(range(len(rows)))


def test_each_token_is_read_once(monkeypatch):
    model, seen = make("llama"), []
    assert keeps_values(model)
    model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    generate_greedily(model, [[5, 6, 7], [8, 9]], max_new_tokens=[4, 2], stop_ids=())
    assert seen == [(2, 3), (2, 1), (1, 1), (1, 1)]


def test_a_model_of_preferences_keeps_values_too():
    plain = make("llama")
    model = PreferenceDecoder(plain.decoder).eval()
    assert isinstance(open_rows(model), CachedRows)
    options = {"max_new_tokens": [9] * len(PROMPTS), "stop_ids": ()}
    assert generate_greedily(model, PROMPTS, **options) == generate_greedily(plain, PROMPTS, **options)


def test_a_model_without_keys_reads_whole_rows():
    """A state-space model has a state instead, and padding on the left would change it."""
    model = make("mamba")
    assert isinstance(open_rows(model), WholeRows)
    most = [3, 3, 3, 3, 3]
    with torch.inference_mode():
        expected = write_without_cache(model, PROMPTS, most, ())
    assert generate_greedily(model, PROMPTS, max_new_tokens=most, stop_ids=()) == expected


def test_the_probe_finds_wrong_positions(monkeypatch):
    model = make("gpt2")
    monkeypatch.setattr(cached, "position_offset", lambda config: 1)
    assert not keeps_values(model)
    assert isinstance(open_rows(model), WholeRows)


def test_the_probe_leaves_the_mode_alone():
    model = make("llama").train()
    assert keeps_values(model)
    assert model.training


def test_positions_that_change_with_the_length_of_the_text_are_read_anew():
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    model = build("llama", rope_parameters=rope, max_position_embeddings=16).eval()
    assert not keeps_values(model)
