"""Masked language modelling: loss and metrics by hand, packed rows, heads and bases, whole trainings."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from pipelines.dataset.examples.example import Document
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import GPU_ATTENTION, build_model
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.finetune.results import read_result
from pipelines.finetune.tasks.masking import MaskRule, mask_tokens
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.task import Draw
from pipelines.finetune.worker import train_rank
from tests.finetune.data import WITHOUT_DROPOUT, make_tokenizer, make_training
from tests.finetune.ranks import alone
from tests.finetune.test_task import CPU, make_rows, make_spec
from tests.finetune.test_train import read_losses

TASK = "masked_language_modelling"
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {"model_type": "bert", **SIZES}
ROBERTA = {"model_type": "roberta", **SIZES, "pad_token_id": 1}
MODERN = {"model_type": "modernbert", **SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DRAW = Draw(np.arange(2), seed=5, step=3)


def build(config=BERT, *, task=TASK, seed=1, **options):
    architecture = Architecture(config=config) if isinstance(config, dict) else config
    labels = ("a", "b") if task == "classification" else ()
    return build_model(architecture, make_spec(task, labels), vocab_size=64, seed=seed, **options)


def logits(module, rows, draw=DRAW, task=None):
    batch = (task or build_task(make_spec(TASK))).collate(rows, CPU, draw)
    with torch.no_grad():
        return module.eval()(**batch.inputs), batch


@pytest.fixture
def rows():
    # 20 candidates of 21 tokens, 3 are masked; 6 of 7, 1 is masked.
    return make_rows(list(range(30, 51)), list(range(20, 27)), num_bytes=[80, 30])


def test_the_loss_is_that_of_the_masked_tokens_alone(rows):
    task = build_task(make_spec(TASK))
    batch = task.collate(rows, CPU, DRAW)
    assert task.count_targets(rows.num_targets).tolist() == [3, 1]
    assert (batch.targets != -100).sum(1).tolist() == [3, 1]
    uniform = torch.zeros(2, 21, 64)
    assert float(task.loss_sum(uniform, batch)) == pytest.approx(4 * math.log(64))
    sums = task.sums(uniform, batch)
    metrics = task.metrics(task.sums(uniform, batch, sums.clone()))  # sums add over batches
    assert metrics["loss"] == pytest.approx(math.log(64))
    assert metrics["perplexity"] == pytest.approx(64)
    # 6 bits a token; behind the masked ones 3/20 of 80 bytes and 1/6 of 30.
    assert metrics["bits_per_byte"] == pytest.approx(4 * 6 / (12 + 5))


def test_the_logits_of_a_masked_token_predict_that_token(rows):
    task = build_task(make_spec(TASK))
    batch = task.collate(rows, CPU, DRAW)
    outputs = torch.zeros(2, 21, 64)
    for row, tokens in enumerate(rows.input_ids):
        outputs[row, torch.arange(len(tokens)), torch.from_numpy(tokens).long()] = 50.0
    assert float(task.loss_sum(outputs, batch)) == pytest.approx(0, abs=1e-6)


def test_a_batch_shows_the_tokens_that_the_masking_writes(rows):
    batch = build_task(make_spec(TASK)).collate(rows, CPU, DRAW)
    rule = MaskRule(0.15, mask_token_id=1, vocab_size=8)  # of make_spec
    for row, (tokens, is_target) in enumerate(zip(rows.input_ids, rows.is_target, strict=True)):
        seen, masked = mask_tokens(tokens, is_target, rule, seed=5, step=3, sequence=row)
        assert batch.inputs["input_ids_BT"][row, : len(tokens)].tolist() == seen.tolist()
        expected = [token if place in masked else -100 for place, token in enumerate(tokens.tolist())]
        assert batch.targets[row, : len(tokens)].tolist() == expected
    assert (batch.targets[1, 7:] == -100).all()


def test_an_evaluation_masks_the_same_whatever_the_training_masks(rows):
    few, many = (build_task(make_spec(TASK, mask_fraction=fraction)) for fraction in (0.15, 0.6))
    draw = DRAW._replace(step=None)
    first, second = (task.collate(rows, CPU, draw) for task in (few, many))
    assert torch.equal(first.targets, second.targets)
    assert torch.equal(first.inputs["input_ids_BT"], second.inputs["input_ids_BT"])
    assert first.num_bytes == second.num_bytes == 12 + 5
    training = many.collate(rows, CPU, DRAW)
    assert (
        (training.targets != -100).sum(1).tolist() == [12, 4] == many.count_targets(rows.num_targets).tolist()
    )


@pytest.mark.parametrize("config", [BERT, ROBERTA], ids=["bert", "roberta"])
def test_packed_documents_have_the_logits_they_have_alone(config):
    module, tokens = build(config), np.arange(20, 41)
    task = build_task(make_spec(TASK, mask_token_id=3))  # 1 is RoBERTa's padding
    rows = make_rows(tokens, np.arange(2, 30), segments=[[5, 1, 15], [28]])
    packed, batch = logits(module, rows, task=task)
    assert "segment_ids_BT" in batch.inputs
    seen = batch.inputs["input_ids_BT"][0]
    for part in (slice(0, 5), slice(5, 6), slice(6, 21)):
        with torch.no_grad():
            single = module(seen[None, part], torch.ones(1, part.stop - part.start, dtype=torch.bool))[0]
        torch.testing.assert_close(packed[0, part], single, atol=1e-5, rtol=0)
    with torch.no_grad():  # the trap of the test: without the mask a document would look different
        together = module(seen[None, :21], torch.ones(1, 21, dtype=torch.bool))[0]
    assert (together[6:] - packed[0, 6:21]).abs().max() > 1e-3


def test_the_attention_of_gpus_keeps_documents_apart_too():
    module, rows = build(), make_rows(np.arange(20, 41), np.arange(2, 30), segments=[[5, 1, 15], [28]])
    eager = logits(module, rows)[0]
    module.encoder.set_attn_implementation(GPU_ATTENTION)
    assert module.encoder.config._attn_implementation == GPU_ATTENTION == "sdpa"
    assert module.probe_separation() is True
    torch.testing.assert_close(logits(module, rows)[0], eager, atol=1e-5, rtol=0)


def test_an_encoder_with_a_sliding_window_refuses_packed_rows():
    module = build(MODERN)
    assert logits(module, make_rows([5, 6, 7]), Draw(np.arange(1), 0, 0))[0].shape == (1, 3, 64)
    with pytest.raises(ValueError, match=r"modernbert can't keep packed documents apart; set .*one_per_doc"):
        logits(module, make_rows([5, 6, 7], segments=[[1, 2]]), Draw(np.arange(1), 0, 0))


ALL = pytest.mark.parametrize("config", [BERT, ROBERTA, MODERN], ids=["bert", "roberta", "modernbert"])


@ALL
def test_a_saved_model_keeps_its_tied_weights(tmp_path, rows, config):
    module, spec = build(config), make_spec(TASK)
    embeddings = module.encoder.get_input_embeddings().weight
    assert module.encoder.get_output_embeddings().weight is embeddings
    save_model(module, make_tokenizer().to_str(), spec, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.spec == spec
    assert torch.equal(logits(loaded.module, rows)[0], logits(module, rows)[0])
    tied = loaded.module.encoder
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert not any("decoder.weight" in name for name in saved)
    assert saved.keys() < module.state_dict().keys()


@pytest.mark.parametrize("config", [BERT, ROBERTA], ids=["bert", "roberta"])
def test_equal_weights_make_equal_files(tmp_path, config):
    module, files = build(config), set()
    for number in range(20):  # names of tied weights came in a random order
        save_model(module, make_tokenizer().to_str(), make_spec(TASK), tmp_path / str(number))
        files.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    (file,) = files
    with safetensors.safe_open(tmp_path / "0" / "model.safetensors", "pt") as opened:
        assert len(opened.metadata()) > 1
    assert safetensors.torch.load(file).keys() < module.state_dict().keys()


@ALL
def test_classification_starts_from_a_masked_model_folder(tmp_path, config):
    source = build(config, seed=7)
    save_model(source, make_tokenizer().to_str(), make_spec(TASK), tmp_path)
    classifier = build(Architecture(base=str(tmp_path)), task="classification")
    weights, expected = classifier.encoder.state_dict(), source.encoder.base_model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_masking_starts_from_any_encoder_with_a_new_head(tmp_path):
    source = build(task="classification", seed=7)
    save_model(source, make_tokenizer().to_str(), make_spec("classification", ("a", "b")), tmp_path / "ours")
    source.encoder.save_pretrained(tmp_path / "plain")
    models = [build(Architecture(base=str(tmp_path / name)), seed=3) for name in ("ours", "plain", "plain")]
    for module in models:
        assert torch.equal(
            module.encoder.bert.encoder.layer[1].output.dense.weight,
            source.encoder.encoder.layer[1].output.dense.weight,
        )
    heads = [module.encoder.cls.predictions.transform.dense.weight for module in models]
    assert torch.equal(heads[1], heads[2])
    assert 0 < heads[0].abs().max() < 1
    weights = safetensors.torch.load_file(tmp_path / "plain" / "model.safetensors")
    weights.pop("encoder.layer.0.output.dense.weight")
    safetensors.torch.save_file(weights, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights of its own architecture: bert.encoder.layer.0"):
        build(Architecture(base=str(tmp_path / "plain")))


def test_a_training_learns_to_fill_the_gaps(text_root):
    cadence = {"evaluate_every_steps": 100, "checkpoint_every_steps": 100}
    training = make_training(text_root, task=TASK, config=WITHOUT_DROPOUT, num_epochs=40.0, **cadence)
    result = train_rank(training, alone())
    # 64 tokens: guessing costs 6 bits of 3 bytes. A neighbour tells the token.
    assert result["before"]["loss"] == pytest.approx(math.log(64), abs=0.2)
    # The first step, too: its loss is divided by the masked tokens, not by those that might be.
    assert read_losses(text_root / "run")[1] == pytest.approx(math.log(64), abs=0.4)
    assert result["after"]["loss"] < 0.8 * result["before"]["loss"]
    assert result == read_result(training.folder)


def test_a_model_without_masking_is_refused():
    with pytest.raises(ValueError, match="needs mask_token_id, vocab_size and mask_fraction"):
        build_task(make_spec(TASK, mask_token_id=None))


@torch.inference_mode()
def test_scores_are_the_bits_of_the_masked_tokens_over_their_bytes():
    task, module, tokenizer = build_task(make_spec(TASK)), build().eval(), make_tokenizer()
    # 17 tokens in windows of at most 8: 8, 8 and 1. One of each is masked: 3 of 17 tokens, 67 bytes.
    text = " ".join(f"w{number}" for number in range(20, 37))
    (found,) = task.predict(module, tokenizer, [Document("", text)], batch_size=2)
    nats = 0.0
    for window in (range(20, 28), range(28, 36), range(36, 37)):
        ids = np.array(window, np.int32)
        draw = int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little") >> 1
        rule = MaskRule(0.15, mask_token_id=1, vocab_size=8)
        seen, (place,) = mask_tokens(ids, ids > 0, rule, seed=0, step=0, sequence=draw)
        row = module(torch.from_numpy(seen)[None], torch.ones(1, len(ids), dtype=torch.bool))
        nats -= float(row.log_softmax(-1)[0, place, ids[place]])
    assert len(text) == 67
    assert found.score == pytest.approx(nats / math.log(2) / (67 * 3 / 17), rel=1e-5)
    assert found.prediction == ""


@torch.inference_mode()
def test_a_score_depends_on_its_text_alone():
    task, module, tokenizer = build_task(make_spec(TASK)), build().eval(), make_tokenizer()
    texts = [
        Document("", text)
        for text in ("w7 w8 w9", "", " ".join(f"w{number}" for number in range(20, 45)), "w1")
    ]
    together = task.predict(module, tokenizer, texts, batch_size=3)
    single = [task.predict(module, tokenizer, [text], batch_size=1)[0].score for text in texts]
    assert [each.score for each in together] == pytest.approx(single, abs=1e-5)
    assert together[1].score == 0 < min(single[0], single[2], single[3])


def test_only_a_masked_training_depends_on_the_share_of_masked_tokens(text_root):
    masked, other = make_training(text_root, task=TASK), make_training(text_root)
    more = replace(masked, spec=replace(masked.spec, mask_fraction=0.4))
    assert more.identity() != masked.identity()
    assert (more.settings()["mask_fraction"], "mask_fraction" in other.settings()) == (0.4, False)
    # Other trainings keep the fingerprints that they had before there was masking.
    names = {"task", "labels", "max_tokens", "base", "tokenizer", "end_token_id"}
    assert other.identity()["spec"].keys() == names
