"""Predictor beside a brute-force twin: one text at a time, straight through the module."""

import itertools
import math

import pytest
import torch

from pipelines.finetune.models.build import load_model
from pipelines.scoring import predict
from pipelines.scoring.predict import Prediction, Predictor

TEXTS = ["my card was lost", "", "退款", "how do I top up " * 40, "x", "信用卡丢了 " * 9, "my card was lost"]


def classify_one(model, text):
    """Twin: encode the whole text, keep the first tokens and the end token, no padding, no batch."""
    ids = model.tokenizer.encode(text).ids
    ids = ids if len(ids) <= model.spec.max_tokens else [*ids[: model.spec.max_tokens - 1], ids[-1]]
    with torch.inference_mode():
        probabilities = model.module(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)).softmax(
            -1
        )[0]
    best = int(probabilities.argmax())
    return model.spec.labels[best], float(probabilities[best])


def bits_one(model, text):
    """Twin: every token predicted from the tokens before it in its window, by definition of the windows."""
    end = model.tokenizer.encode("").ids[-1]
    ids = [end, *model.tokenizer.encode(text).ids]
    nats, size = 0.0, model.spec.max_tokens
    for first in range(0, len(ids) - 1, size - 1):
        window = torch.tensor([ids[first : first + size]])
        with torch.inference_mode():
            log_probabilities = model.module(window, torch.ones_like(window)).log_softmax(-1)[0]
        nats -= sum(float(log_probabilities[t, window[0, t + 1]]) for t in range(window.shape[1] - 1))
    return nats / math.log(2) / len(text.encode())


def continue_one(model, text):
    end = model.tokenizer.encode("").ids[-1]
    num_new = min(32, model.spec.max_tokens // 2)
    ids = [end, *model.tokenizer.encode(text, add_special_tokens=False).ids][
        : model.spec.max_tokens - num_new
    ]
    new = []
    for _ in range(num_new):
        window = torch.tensor([ids + new])
        with torch.inference_mode():
            new.append(int(model.module(window, torch.ones_like(window))[0, -1].argmax()))
        if new[-1] == end:
            break
    return model.tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_classifier_equals_its_twin_in_the_order_given(classifier_folder, batch_size):
    model = load_model(classifier_folder)
    expected = [classify_one(model, text) for text in TEXTS]
    assert len({name for name, _ in expected}) > 1  # else order would not matter
    predictions = Predictor.load(classifier_folder).predict(TEXTS, batch_size=batch_size)
    assert [p.prediction for p in predictions] == [name for name, _ in expected]
    assert [p.score for p in predictions] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_language_model_equals_its_twin(decoder_folder, batch_size):
    model = load_model(decoder_folder)
    predictions = Predictor.load(decoder_folder).predict(TEXTS, batch_size=batch_size)
    assert [p.prediction for p in predictions] == [continue_one(model, text) for text in TEXTS]
    assert [p.score for p in predictions] == pytest.approx(
        [bits_one(model, text) if text else 0.0 for text in TEXTS], abs=1e-5
    )


def test_a_text_without_bytes_has_zero_bits(decoder_folder):
    assert Predictor.load(decoder_folder).predict([""])[0].score == 0.0


def test_scores_alone_are_those_of_the_whole_prediction(decoder_folder):
    predictor = Predictor.load(decoder_folder)
    whole, scores = (predictor.predict(TEXTS, continues=continues) for continues in (True, False))
    assert [each.score for each in scores] == [each.score for each in whole]
    assert any(each.prediction for each in whole)
    assert {each.prediction for each in scores} == {""}


@pytest.mark.parametrize("folder", ["classifier_folder", "decoder_folder"])
def test_no_text_gives_no_prediction(folder, request):
    assert Predictor.load(request.getfixturevalue(folder)).predict([]) == []


def test_windows_make_every_token_a_target_once(decoder_folder, tokenizer, monkeypatch):
    monkeypatch.setattr(predict, "PIECE_CHARS", 50)
    predictor = Predictor.load(decoder_folder)
    text = "how do I top up, 信用卡丢了? " * 7
    windows = list(predictor._windows(text))
    assert len(windows) > 3
    assert max(map(len, windows)) == 16
    targets = [token for window in windows for token in window[1:]]
    end = tokenizer.encode("").ids
    assert targets[-1:] == end
    assert tokenizer.decode(targets[:-1]) == text
    assert all(before[-1] == after[0] for before, after in itertools.pairwise(windows))


@pytest.mark.parametrize("text", ["a" * 25, " " * 25, "ab cd " * 9, "", "退" * 25])
def test_pieces_are_the_text(text, monkeypatch):
    monkeypatch.setattr(predict, "PIECE_CHARS", 10)
    pieces = list(predict._pieces(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 10 for piece in pieces)


def test_a_long_text_costs_a_classifier_no_more_than_its_window(classifier_folder, monkeypatch):
    predictor = Predictor.load(classifier_folder)
    short, long = predictor.predict(["my card was lost " * 100, "my card was lost " * 1_000_000])
    assert long == short


def test_a_word_longer_than_the_guess_fills_the_window(tmp_path, classifier_folder, monkeypatch):
    monkeypatch.setattr(predict, "CHARS_PER_TOKEN", 1)
    text = "how do I top up " * 40  # several characters a token: the first guess is too short
    expected = classify_one(load_model(classifier_folder), text)
    got = Predictor.load(classifier_folder).predict([text])[0]
    assert (got.prediction, got.score) == (expected[0], pytest.approx(expected[1], abs=1e-5))


def test_a_tokenizer_with_padding_and_truncation_of_its_own_changes_nothing(build_folder, classifier_folder):
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
