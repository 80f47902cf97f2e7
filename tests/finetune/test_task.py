"""Tasks against values by hand: tensors, losses, sums, metrics."""

import math

import numpy as np
import pytest
import torch

from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.finetune.models.architecture import ModelSpec, RetrievalRules
from pipelines.finetune.tasks.table import TASKS, build_task

CPU = torch.device("cpu")
MASKING = {"mask_token_id": 1, "vocab_size": 8, "mask_fraction": 0.15}
RETRIEVAL = {"retrieval": RetrievalRules(temperature=0.1)}
SPEC = {"max_tokens": 8, "base": "scratch", "tokenizer": "t"}
LABEL_SETS = {"label_threshold": 0.5}


def make_spec(task="language_modelling", labels=(), **fields):
    return ModelSpec(**{**SPEC, **MASKING, **RETRIEVAL, **LABEL_SETS, **fields}, task=task, labels=labels)


def make_rows(*tokens, labels=None, num_bytes=None, segments=None):
    """Rows as the reader gives them: the first token of a document is no target."""
    segments = segments or [[len(each)] for each in tokens]
    is_target = [np.concatenate([np.arange(length) > 0 for length in each]) for each in segments]
    return Rows(
        [np.asarray(each, np.int32) for each in tokens],
        is_target if labels is None else [np.zeros(len(each), bool) for each in tokens],
        [np.asarray(each, np.int32) for each in segments],
        np.asarray(labels or [NO_LABEL] * len(tokens)),
        np.asarray([each.sum() for each in is_target]) if labels is None else np.ones(len(tokens), np.int64),
        np.asarray(num_bytes or [1] * len(tokens)),
    )


@pytest.fixture
def language_modelling():
    return build_task(make_spec())


@pytest.fixture
def classification():
    return build_task(make_spec("classification", ("a", "b", "c")))


def test_collate_pads_on_the_right_and_masks(classification):
    batch = classification.collate(make_rows([1, 2, 3], [4], labels=[1, 0], num_bytes=[5, 6]), CPU)
    assert batch.inputs["input_ids_BT"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch.inputs["attention_mask_BT"].tolist() == [[True, True, True], [True, False, False]]
    assert (batch.targets.tolist(), batch.num_bytes) == ([1, 0], 11)


def test_inputs_take_five_bytes_per_token(classification):
    inputs = classification.collate(make_rows([1, 2], [3], labels=[0, 1]), CPU).inputs
    assert {name: tensor.dtype for name, tensor in inputs.items()} == {
        "input_ids_BT": torch.int32,
        "attention_mask_BT": torch.bool,
    }


def test_classification_metrics_by_hand(classification):
    batch = classification.collate(make_rows([1], [1], [1], [1], labels=[0, 0, 1, 1]), CPU)
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1]]))
    sums = classification.sums(logits, batch)
    metrics = classification.metrics(sums + sums)  # sums add over batches
    assert metrics["accuracy"] == 0.75
    nats = -(math.log(0.7) + math.log(0.2) + math.log(0.8) + math.log(0.6))
    assert metrics["loss"] == pytest.approx(nats / 4)
    # F1: class 0 2*1/(1+2), class 1 2*2/(3+2), class 2 does not occur.
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert classification.confusion(sums).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert float(classification.loss_sum(logits, batch)) == pytest.approx(nats)


def test_classification_refuses_rows_of_several_documents(classification):
    rows = make_rows([1], [1, 2, 3], labels=[0, 1], segments=[[1], [2, 1]])
    with pytest.raises(ValueError, match=r"row 1 .* holds 2 documents.*packing.method=one_per_document"):
        classification.collate(rows, CPU)


def test_next_tokens_count_once_and_padding_never(language_modelling):
    batch = language_modelling.collate(make_rows([0, 1, 2], [3, 0], num_bytes=[7, 1]), CPU)
    logits = torch.zeros(2, 3, 4)  # uniform over 4 tokens: 2 bits a target, 3 targets
    metrics = language_modelling.metrics(language_modelling.sums(logits, batch))
    assert metrics["bits_per_byte"] == pytest.approx(3 * 2 / 8)
    assert metrics["perplexity"] == pytest.approx(4)
    assert metrics["loss"] == pytest.approx(math.log(4))
    assert float(language_modelling.loss_sum(logits, batch)) == pytest.approx(3 * math.log(4))


def test_the_logits_of_a_token_predict_the_next(language_modelling):
    batch = language_modelling.collate(make_rows([0, 1, 2]), CPU)
    logits = torch.full((1, 3, 4), -50.0)
    logits[0, 0, 1] = logits[0, 1, 2] = 50.0
    assert float(language_modelling.loss_sum(logits, batch)) == pytest.approx(0, abs=1e-6)


def test_only_targets_count_in_the_loss(language_modelling):
    rows = make_rows([0, 1, 2, 3], [4, 5, 6], segments=[[2, 2], [3]])
    batch = language_modelling.collate(rows, CPU)
    assert batch.targets.tolist() == [[-100, 1, -100, 3], [-100, 5, 6, -100]]
    assert float(language_modelling.loss_sum(torch.zeros(2, 4, 8), batch)) == pytest.approx(4 * math.log(8))


def test_packed_rows_carry_positions_and_segments(language_modelling):
    rows = make_rows([0, 1, 2, 3], [4, 5], segments=[[1, 3], [2]])
    inputs = language_modelling.collate(rows, CPU).inputs
    # The padding of the second row is a document of its own.
    assert inputs["position_ids_BT"].tolist() == [[0, 0, 1, 2], [0, 1, 0, 1]]
    assert inputs["segment_ids_BT"].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]


def test_rows_of_one_document_carry_no_positions(language_modelling):
    inputs = language_modelling.collate(make_rows([0, 1, 2], [4, 5]), CPU).inputs
    assert sorted(inputs) == ["attention_mask_BT", "input_ids_BT", "targets_BT"]


def test_an_unknown_task_is_named():
    with pytest.raises(
        ValueError, match=r"unknown task 'ranking'; known: chat, classification, .*, prompt_response"
    ):
        build_task(make_spec("ranking"))


def test_tasks_are_in_the_table_under_their_names():
    assert {name: build_task(make_spec(name, ("a", "b"))).name for name in TASKS} == {
        name: name for name in TASKS
    }


@pytest.mark.parametrize("name", ["classification", "language_modelling"])
def test_sums_added_in_place_equal_added_sums(classification, language_modelling, name):
    task = {"classification": classification, "language_modelling": language_modelling}[name]
    random = torch.Generator().manual_seed(1)
    parts, total = [], None
    for labels in ([0, 1, 1], [2, 2, 0]):
        batch = task.collate(make_rows([0, 1], [2, 3], [1, 1], labels=labels), CPU)
        shape = (3, 3) if name == "classification" else (3, 2, 4)
        outputs = torch.randn(shape, generator=random)
        parts.append(task.sums(outputs, batch))
        total = task.sums(outputs, batch, total)
    assert torch.equal(total, parts[0] + parts[1])
    assert total.sum() >= 6


def test_packed_rows_of_one_length_are_numbered_as_others(language_modelling):
    rows = make_rows([0, 1, 2, 3], [4, 5, 6, 7], segments=[[1, 3], [2, 1, 1]])
    batch = language_modelling.collate(rows, CPU)
    assert batch.inputs["input_ids_BT"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert batch.inputs["position_ids_BT"].tolist() == [[0, 0, 1, 2], [0, 1, 0, 0]]
    assert batch.inputs["segment_ids_BT"].tolist() == [[0, 1, 1, 1], [0, 0, 1, 2]]
    assert batch.inputs["attention_mask_BT"].all()
    assert {each.dtype for each in (*batch.inputs.values(), batch.targets)} == {torch.int32, torch.bool}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_equal_those_on_the_cpu(language_modelling):
    rows = make_rows([0, 1, 2, 3], [4, 5], segments=[[1, 3], [2]])
    here, there = (language_modelling.collate(rows, torch.device(name)) for name in ("cpu", "cuda"))
    assert there.targets.is_cuda
    assert there.targets.tolist() == here.targets.tolist()
    for name, tensor in here.inputs.items():
        assert there.inputs[name].is_cuda
        assert there.inputs[name].tolist() == tensor.tolist()
