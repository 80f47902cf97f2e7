"""Tiny models with random weights: an encoder classifier and a decoder, on one byte-level tokenizer."""

import pytest
import torch

from pipelines.dataset.tokenizer import tokenizer_fingerprint, train_bpe
from pipelines.finetune.models.architecture import Architecture, ModelSpec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import save_model

LABELS = ("lost_card", "top_up", "退款")
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
KINDS = {
    "classification": {"model_type": "bert"},
    "language_modelling": {"model_type": "llama", "num_key_value_heads": 2},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models on a busy machine: threads that wait for each other take a hundred times longer than the
    work.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(
        iter(["my card was lost", "how do I top up", "信用卡丢了", "请给我退款"] * 2), vocab_size=300
    )


@pytest.fixture(scope="session")
def build_folder(tokenizer, tmp_path_factory):
    def build(task, *, seed=1, max_tokens=16, tokenizer=tokenizer, end_token_id=None):
        spec = ModelSpec(
            task=task,
            labels=LABELS if task == "classification" else (),
            max_tokens=max_tokens,
            base="scratch",
            tokenizer=tokenizer_fingerprint(tokenizer),
            end_token_id=end_token_id,
        )
        architecture = Architecture(config={**KINDS[task], **SIZES})
        module = build_model(architecture, spec, vocab_size=tokenizer.get_vocab_size(), seed=seed)
        if task == "classification":
            module.head.weight.data *= 20  # the classes of random logits would all tie
        folder = tmp_path_factory.mktemp(task) / "model"
        save_model(module, tokenizer.to_str(), spec, folder)
        return folder

    return build


@pytest.fixture(scope="session")
def classifier_folder(build_folder):
    return build_folder("classification")


@pytest.fixture(scope="session")
def decoder_folder(build_folder):
    return build_folder("language_modelling")
