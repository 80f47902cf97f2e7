"""Models of preferences: scores of pairs are those of training, answers those of their prompts."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.dataset.arrays import mark_runs
from pipelines.dataset.examples.example import Document, ExampleSettings, Part
from pipelines.dataset.examples.preference import PreferenceExamples
from pipelines.dataset.packing.one_per_document import pack_one_per_document
from pipelines.dataset.packing.packed import join_rows
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.finetune.models.architecture import read_spec
from pipelines.finetune.models.folder import load_model
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.tasks.table import build_task
from pipelines.scoring.predict import Predictor
from pipelines.scoring.serve import AS_PARTS, _read_inputs
from tests.dataset.chat.conversations import END, format_of, read_template, special_tokenizer
from tests.scoring.test_conversations import build_folder, spec_of

CHAT = format_of(read_template("chatml"))
PAIRS = [
    ("Where is my card?", "On its way.", "I do not know."),
    ("我的卡在哪里？", "它在路上。", "不知道"),
    ("why?", "because", "x" * 300),
    ("Hello", "Good morning to you", "No"),
    ("And now?", "This one", "That one"),
]
MAX_TOKENS = 160


def document_of(prompt, chosen, rejected):
    parts = (Part("prompt", prompt), Part("chosen", chosen), Part("rejected", rejected))
    return Document("d", "\n\n".join(part.text for part in parts), parts=parts)


def pair_spec(loss="dpo"):
    spec = spec_of(CHAT, task="preference", max_tokens=MAX_TOKENS)
    return replace(spec, preference=PreferenceLoss(loss=loss))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_folder(tmp_path_factory.mktemp("preference") / "model", pair_spec())


@pytest.fixture(scope="module")
def predictor(folder):
    return Predictor.load(folder)


def make_rows(documents):
    """As the dataset stage writes them and the reader gives them."""
    spec = pair_spec()
    settings = ExampleSettings(end_token_id=spec.end_token_id, chat=CHAT, max_tokens=MAX_TOKENS)
    examples = PreferenceExamples(special_tokenizer(), settings).build(documents)
    rows = join_rows(list(pack_one_per_document(examples, length=MAX_TOKENS)))
    ends = np.cumsum(rows.num_tokens)[:-1]
    first_tokens = np.repeat([0, *ends], rows.num_runs) + rows.run_first_token
    is_target = mark_runs(first_tokens, rows.run_num_tokens, size=len(rows.input_ids))
    return Rows(
        input_ids=np.split(rows.input_ids, ends),
        is_target=np.split(is_target, ends),
        segment_lengths=np.split(rows.segment_num_tokens, np.cumsum(rows.num_segments)[:-1]),
        labels=np.full(len(documents), NO_LABEL),
        num_targets=rows.num_targets,
        num_bytes=rows.num_bytes,
    )


def test_the_gate_counts_what_an_evaluation_of_the_training_counts(folder, predictor):
    documents = [document_of(*pair) for pair in PAIRS]
    task, rows = build_task(pair_spec()), make_rows(documents)
    model = build_model_of(folder)
    batch = task.collate(rows, torch.device("cpu"))
    with torch.no_grad():
        metrics = task.metrics(task.sums(model(**batch.inputs), batch))
    found = predictor.predict(documents, batch_size=2, generate=False)
    num_preferred = sum(each.score > 0 for each in found)
    assert 0 < num_preferred < len(PAIRS)
    assert metrics["preference_accuracy"] == num_preferred / len(PAIRS)
    sizes = [len((chosen + rejected).encode()) for _, chosen, rejected in PAIRS]
    assert [each.num_bytes for each in found] == sizes


def build_model_of(folder):
    """The model of a folder as a training has it, with a reference."""
    model = load_model(folder).module
    model.keep_reference()
    return model


def test_a_score_is_the_difference_of_the_means_of_a_token(folder, predictor):
    model, tokenizer = load_model(folder).module, special_tokenizer()
    documents = [document_of(*pair) for pair in PAIRS[:2]]
    for document, prediction in zip(documents, predictor.predict(documents, generate=False), strict=True):
        means = []
        for name in ("chosen", "rejected"):
            (answer,) = (part.text for part in document.parts if part.name == name)
            turns = f"<|im_start|>user\n{document.parts[0].text}<|im_end|>\n<|im_start|>assistant\n"
            tokenizer.encode_special_tokens = False
            prompt = tokenizer.encode(turns, add_special_tokens=False).ids
            response = tokenizer.encode(answer, add_special_tokens=False).ids
            ids = [*prompt, *response, tokenizer.token_to_id(END)]
            with torch.no_grad():
                logits = model(torch.tensor([ids]), torch.ones(1, len(ids)))[0].double()
            own = logits.log_softmax(-1)[range(len(prompt) - 1, len(ids) - 1), ids[len(prompt) :]]
            means.append(math.fsum(own.tolist()) / len(own))
        assert prediction.score == pytest.approx(means[0] - means[1], abs=2e-6)


def test_what_is_no_pair_is_answered_and_not_scored(predictor):
    prompt = Document("d", "Hello", parts=(Part("prompt", "Hello"),))
    pairs = [document_of(*pair) for pair in (PAIRS[3], ("Hello", "a", "a"), ("", "a", "b"))]
    documents = ["Hello", prompt, *pairs]
    text, alone, scored, equal, empty = predictor.predict(documents, batch_size=3)
    assert text == alone
    assert (alone.score, alone.num_bytes, alone.problem) == (0.0, 0, None)
    assert scored.prediction == alone.prediction != ""
    assert scored.score != 0
    for refused, problem in ((equal, "chosen and rejected are equal"), (empty, "its prompt is empty")):
        assert (refused.score, refused.prediction) == (0.0, "")
        assert refused.num_bytes == 2
        assert problem in refused.problem


def test_a_served_dialogue_is_answered(predictor):
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "unused"}]
    (document,) = _read_inputs(pd.DataFrame({"messages": [messages]}), AS_PARTS["preference"])
    (found,), (expected,) = predictor.predict([document]), predictor.predict(["Hello"])
    assert found == expected


def test_a_model_folder_has_no_reference_and_says_how_it_was_trained(folder):
    assert read_spec(folder).preference == PreferenceLoss() == pair_spec().preference
    assert read_spec(folder).identity() == pair_spec().identity()
    assert load_model(folder).module.digest_reference() is None
    assert sorted(file.name for file in folder.glob("*.safetensors")) == ["model.safetensors"]


def test_a_sample_shows_answers_to_held_out_prompts(folder):
    rows = make_rows([document_of(*pair) for pair in PAIRS[:2]])
    sample = build_task(pair_spec()).sample_text(load_model(folder).module, special_tokenizer(), rows)
    assert sample.count("[model]") == 2
    assert "Where is my card?" in sample
    assert "On its way." not in sample.split("[model]")[0]
