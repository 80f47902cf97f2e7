"""Predictor beside a brute-force twin: one text at a time, straight through the module."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from pipelines.dataset.examples.encode import TextEncoder, count_token_bytes
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.dataset.tokenizer import END_OF_TEXT, PAD, from_json
from pipelines.finetune.models.folder import load_model
from pipelines.finetune.tasks import texts as encoding
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.texts import DocumentEncoder, ForgedTokens, encode_start, split_text
from pipelines.scoring.predict import Prediction, Predictor, choose_device, choose_precision
from tests.dataset.styles import unigram_style

TEXTS = ["my card was lost", "", "退款", "how do I top up " * 40, "x", "信用卡丢了 " * 9, "my card was lost"]


def forward(model, ids):
    with torch.inference_mode():
        return model.module(input_ids_BT=torch.tensor([ids]), attention_mask_BT=torch.ones(1, len(ids)))[0]


def classify_one(model, text):
    """Twin: encode the whole text, keep the first tokens and the end token, no padding, no batch."""
    ids = model.tokenizer.encode(text).ids
    ids = ids if len(ids) <= model.spec.max_tokens else [*ids[: model.spec.max_tokens - 1], ids[-1]]
    probabilities = forward(model, ids).softmax(-1)
    best = int(probabilities.argmax())
    return model.spec.labels[best], float(probabilities[best])


def document_bytes(model, text):
    """Tokens of the document (with an end token, without an opening one) and the bytes of each."""
    encoded = model.tokenizer.encode(text)
    marked = zip(encoded.offsets, encoded.special_tokens_mask, strict=True)
    ends = [-1 if special else end for (_, end), special in marked]
    return encoded.ids, count_token_bytes(text, np.asarray(ends, np.int32))


def bits_one(model, text):
    """Twin: every token but the first, predicted from the tokens before it in its window."""
    ids, num_bytes = document_bytes(model, text)
    nats, size = 0.0, model.spec.max_tokens
    for first in range(0, len(ids) - 1, size - 1):
        window = ids[first : first + size]
        log_probabilities = forward(model, window).log_softmax(-1)
        nats -= sum(float(log_probabilities[t, window[t + 1]]) for t in range(len(window) - 1))
    behind = int(num_bytes[1:].sum())
    return nats / math.log(2) / behind if behind else 0.0


def continue_one(model, text):
    end = model.tokenizer.encode("").ids[-1]
    num_new = min(32, model.spec.max_tokens // 2)
    ids = model.tokenizer.encode(text, add_special_tokens=False).ids[: model.spec.max_tokens - num_new]
    new = []
    while ids and len(new) < num_new and (not new or new[-1] != end):
        new.append(int(forward(model, ids + new)[-1].argmax()))
    return model.tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_classifier_equals_its_twin(classifier_folder, batch_size):
    model = load_model(classifier_folder)
    expected = [classify_one(model, text) for text in TEXTS]
    assert len({name for name, _ in expected}) > 1  # else order would not matter
    predictions = Predictor.load(classifier_folder).predict(TEXTS, batch_size=batch_size)
    assert [each.prediction for each in predictions] == [name for name, _ in expected]
    assert [each.score for each in predictions] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_language_model_equals_its_twin(decoder_folder, batch_size):
    model = load_model(decoder_folder)
    predictions = Predictor.load(decoder_folder).predict(TEXTS, batch_size=batch_size)
    assert [each.prediction for each in predictions] == [continue_one(model, text) for text in TEXTS]
    expected = [bits_one(model, text) for text in TEXTS]
    assert [each.score for each in predictions] == pytest.approx(expected, abs=1e-5)
    assert sum(score > 0 for score in expected) >= 5


def test_scores_agree_with_the_metric_of_training(decoder_folder):
    """Short documents, one per row: the same tokens count in training and in scoring."""
    model = load_model(decoder_folder)
    texts = ["my card was lost", "how do I top up", "my card, 信用卡", "top up my card"]
    documents = [document_bytes(model, text) for text in texts]
    behind = np.asarray([int(num_bytes[1:].sum()) for _, num_bytes in documents])
    assert max(len(ids) for ids, _ in documents) <= model.spec.max_tokens
    assert all(0 < size < len(text.encode()) for size, text in zip(behind, texts, strict=True))
    rows = Rows(
        [np.asarray(ids, np.int32) for ids, _ in documents],
        [np.arange(len(ids)) > 0 for ids, _ in documents],
        [np.asarray([len(ids)], np.int32) for ids, _ in documents],
        np.full(len(texts), NO_LABEL),
        np.asarray([len(ids) - 1 for ids, _ in documents]),
        behind,
    )
    task = build_task(model.spec)
    batch = task.collate(rows, torch.device("cpu"))
    with torch.inference_mode():
        trained = task.metrics(task.sums(model.module(**batch.inputs), batch))["bits_per_byte"]
    scores = np.asarray(
        [each.score for each in Predictor.load(decoder_folder).predict(texts, generate=False)]
    )
    assert float((scores * behind).sum() / behind.sum()) == pytest.approx(trained, abs=1e-5)


def test_a_text_without_predicted_bytes_scores_zero(decoder_folder):
    # "x" is one token: nothing stands before it, so only the end token is predicted.
    assert [each.score for each in Predictor.load(decoder_folder).predict(["", "x"])] == [0.0, 0.0]


def test_scores_alone_equal_those_of_whole_predictions(decoder_folder):
    predictor = Predictor.load(decoder_folder)
    whole, scores = (predictor.predict(TEXTS, generate=generate) for generate in (True, False))
    assert [each.score for each in scores] == [each.score for each in whole]
    assert any(each.prediction for each in whole)
    assert {each.prediction for each in scores} == {""}


@pytest.mark.parametrize("folder", ["classifier_folder", "decoder_folder"])
def test_no_text_gives_no_prediction(folder, request):
    assert Predictor.load(request.getfixturevalue(folder)).predict([]) == []


def test_windows_make_every_token_a_target_once(tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "PIECE_CHARS", 50)
    text = "how do I top up, 信用卡丢了? " * 7
    windows = list(DocumentEncoder(tokenizer, None).encode_windows(text, 16))
    assert len(windows) > 3
    assert max(map(len, windows)) == 16
    tokens = windows[0][:1] + [token for window in windows for token in window[1:]]
    assert tokens[-1:] == tokenizer.encode("").ids
    assert tokenizer.decode(tokens[:-1]) == text
    assert all(before[-1] == after[0] for before, after in itertools.pairwise(windows))


def with_template(tokenizer, template, *names):
    """The same tokenizer with another post-processor."""
    other = from_json(tokenizer.to_str())
    special = [(name, other.token_to_id(name)) for name in names]
    other.post_processor = TemplateProcessing(single=template, special_tokens=special)
    return other


def test_an_opening_token_makes_the_first_token_count(tokenizer):
    opened = with_template(tokenizer, f"{PAD} $A", PAD)
    encoder = DocumentEncoder(opened, None)
    first = opened.token_to_id(PAD)
    assert encoder.end_token_id is None
    assert next(encoder.encode_windows("my card", 16))[0] == first
    assert encoder.encode_prompt("my card", 2)[0] == first
    assert encoder.count_predicted_bytes("my card") == 7
    # "my" opens the text here, and its two bytes do not count.
    plain = DocumentEncoder(tokenizer, None)
    assert tokenizer.encode("my card").tokens[0] == "my"
    assert plain.count_predicted_bytes("my card") == 5


def test_a_tokenizer_without_special_tokens_takes_the_given_end(tokenizer):
    bare = with_template(tokenizer, "$A")
    end = bare.token_to_id(END_OF_TEXT)
    assert DocumentEncoder(bare, None).end_token_id is None
    assert next(DocumentEncoder(bare, end).encode_windows("x", 16))[-1] == end
    # The spec goes before the tokenizer, whose own closing token stays.
    own = tokenizer.encode("").ids
    assert DocumentEncoder(tokenizer, 7).end_token_id == 7
    assert next(DocumentEncoder(tokenizer, 7).encode_windows("x", 16))[-2:] == [*own, 7]
    assert next(DocumentEncoder(tokenizer, own[0]).encode_windows("x", 16))[-1:] == own


@pytest.mark.parametrize("template", ["$A", f"$A {END_OF_TEXT}", f"{PAD} $A", f"{PAD} $A {END_OF_TEXT}"])
def test_documents_have_the_tokens_of_the_dataset_stage(tokenizer, template):
    end = tokenizer.token_to_id(END_OF_TEXT)
    used = with_template(tokenizer, template, *[name for name in (PAD, END_OF_TEXT) if name in template])
    text = "how do I top up, 信用卡丢了?"
    built = next(iter(TextEncoder(used, end_token_id=end).encode([text])))
    encoder = DocumentEncoder(used, end)
    assert next(encoder.encode_windows(text, 1000)) == built.input_ids.tolist()
    assert encoder.count_predicted_bytes(text) == int(built.num_bytes[1:].sum())


def test_generation_stops_at_the_end_token_of_the_spec(build_folder, decoder_folder, tokenizer):
    model = load_model(decoder_folder)
    prompt = tokenizer.encode("my card was lost", add_special_tokens=False).ids
    first = int(forward(model, prompt[:8])[-1].argmax())
    stopped = build_folder("language_modelling", end_token_id=first)
    whole, short = (
        Predictor.load(each).predict(["my card was lost"])[0] for each in (decoder_folder, stopped)
    )
    assert len(tokenizer.encode(whole.prediction).ids) > 2
    assert short.prediction == tokenizer.decode([first])


@pytest.mark.parametrize("text", ["a" * 25, " " * 25, "ab cd " * 9, "", "退" * 25])
def test_pieces_are_the_text(text, monkeypatch):
    monkeypatch.setattr(encoding, "PIECE_CHARS", 10)
    pieces = list(split_text(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 10 for piece in pieces)


def test_a_classifier_reads_no_more_than_its_window(classifier_folder):
    predictor = Predictor.load(classifier_folder)
    short, long = predictor.predict(["my card was lost " * 100, "my card was lost " * 1_000_000])
    assert (long.prediction, long.score) == (short.prediction, short.score)


def test_long_words_still_fill_the_window(classifier_folder, monkeypatch):
    monkeypatch.setattr(encoding, "CHARS_PER_TOKEN", 1)
    text = "how do I top up " * 40  # several characters per token: the first guess is too short
    name, score = classify_one(load_model(classifier_folder), text)
    predicted = Predictor.load(classifier_folder).predict([text])[0]
    assert (predicted.prediction, predicted.score) == (name, pytest.approx(score, abs=1e-5))


def test_padding_and_truncation_of_the_tokenizer_change_nothing(build_folder, classifier_folder):
    other = build_folder("classification")
    loaded = load_model(other)
    loaded.tokenizer.enable_padding(length=128)
    loaded.tokenizer.enable_truncation(2)
    loaded.tokenizer.save(str(other / "tokenizer.json"))
    assert Predictor.load(other).predict(TEXTS) == Predictor.load(classifier_folder).predict(TEXTS)


def test_the_same_call_gives_the_same_digits(classifier_folder):
    predictor = Predictor.load(classifier_folder)
    assert predictor.predict(TEXTS) == predictor.predict(TEXTS)
    assert predictor.model_seconds > 0
    assert all(isinstance(prediction, Prediction) for prediction in predictor.predict(TEXTS))


def test_errors_name_value_and_remedy(classifier_folder, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at least 1 text, got 0"):
        Predictor.load(classifier_folder).predict(["a"], batch_size=0)
    with pytest.raises(FileNotFoundError, match="no model folder"):
        Predictor.load(tmp_path)


def test_threads_are_set_for_the_process(classifier_folder):
    before = torch.get_num_threads()
    try:
        Predictor.load(classifier_folder, num_threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("unknown", "expected"), [(True, [3, 2, 3, 0, 2]), (False, [3, 2, 3, 2])])
def test_scored_text_cannot_spell_a_special_token(unknown, expected):
    tokenizer = unigram_style(unknown=unknown)
    tokenizer.encode_special_tokens = True
    own = tokenizer.encode("").ids
    assert tokenizer.encode("a </s>a", add_special_tokens=False).ids.count(1) == 1  # the library lets it
    assert encode_start(tokenizer, ForgedTokens(tokenizer), "a </s>a", 16) == [*expected, *own]
    assert next(DocumentEncoder(tokenizer, None).encode_windows("a </s>a", 16)) == [*expected, *own]


def test_a_served_model_needs_neither_delta_nor_spark_nor_mlflow():
    blocked = "import sys; sys.modules.update(dict.fromkeys(('deltalake', 'pyspark', 'mlflow', 'horovod')));"
    program = f"{blocked} import pipelines.scoring.predict"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_a_cpu_scores_in_float32_unless_told(classifier_folder):
    as_before = Predictor.load(classifier_folder, device="cpu", precision="float32")
    chosen = Predictor.load(classifier_folder, device="cpu")
    assert (chosen.device.type, chosen.precision) == ("cpu", "float32")
    assert chosen.predict(TEXTS) == as_before.predict(TEXTS)


@pytest.mark.parametrize("folder", ["classifier_folder", "decoder_folder"])
def test_bfloat16_moves_scores_by_its_rounding(request, folder):
    folder = request.getfixturevalue(folder)
    exact, rounded = (
        Predictor.load(folder, device="cpu", precision=precision).predict(TEXTS, generate=False)
        for precision in ("float32", "bfloat16")
    )
    scores = [each.score for each in exact]
    assert [each.score for each in rounded] == pytest.approx(scores, abs=0.05, rel=0.05)
    assert [each.score for each in rounded] != scores  # else nothing ran in bfloat16


@pytest.mark.parametrize(("num_gpus", "expected"), [(0, "cpu"), (1, "cuda:0"), (4, "cuda:1")])
def test_workers_take_the_gpus_of_a_host_in_turn(monkeypatch, num_gpus, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert choose_device(5) == expected


@pytest.mark.parametrize(("has_it", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_scores_in_bfloat16_if_it_has_it(monkeypatch, has_it, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it)
    gpu = torch.device("cuda:0")
    assert choose_precision(gpu, "auto") == expected
    assert choose_precision(gpu, "float32") == "float32"
