"""Retrieval on one process: the loss and its candidates by hand, vectors of texts, micro-batches."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.dataset.rows import Rows
from pipelines.finetune.models.architecture import Architecture, RetrievalRules
from pipelines.finetune.models.build import build_model
from pipelines.finetune.parallel.whole_batch import accumulate_compared, keep_rows
from pipelines.finetune.tasks.candidates import find_ranks, hash_tokens, score_candidates
from pipelines.finetune.tasks.table import build_task
from tests.conftest import TINY_ENCODER
from tests.finetune.data import VOCABULARY, pair_rows
from tests.finetune.test_task import make_spec

CPU = torch.device("cpu")
TEMPERATURE = 0.1
TASK = build_task(make_spec("retrieval"))


def rows_of(*texts):
    """Rows whose texts are given as lists of tokens."""
    num_rows = len(texts)
    return Rows(
        input_ids=[np.concatenate(row).astype(np.int32) for row in texts],
        is_target=[np.zeros(sum(map(len, row)), bool) for row in texts],
        segment_lengths=[np.array([len(text) for text in row], np.int32) for row in texts],
        labels=np.zeros(num_rows, np.int64),
        num_targets=np.ones(num_rows, np.int64),
        num_bytes=np.full(num_rows, 5),
    )


def loss_by_hand(vectors, texts, temperature=TEMPERATURE):
    """Sum over queries of -log softmax at the positive, pair by pair. A candidate is left out if some row has
    the same query and it as a positive."""
    rows, place = [], 0
    for row in texts:
        rows.append(range(place, place + len(row)))
        place += len(row)
    flat = [tuple(text) for row in texts for text in row]
    known = {(tuple(row[0]), tuple(row[1])) for row in texts}
    total = 0.0
    for own in rows:
        query, positive = own[0], own[1]
        candidates = [place for other in rows for place in other[1:]]
        kept = [each for each in candidates if each == positive or (flat[query], flat[each]) not in known]
        scores = {each: float(np.dot(vectors[query], vectors[each])) / temperature for each in kept}
        total += math.log(sum(map(math.exp, scores.values()))) - scores[positive]
    return total


A, B, C, D = [1, 2], [3], [4, 5, 6], [7]
TEXTS = {
    "different": [[A, B], [C, D, [8]], [[9], [10], [11], [12]]],
    "one positive twice": [[A, B], [C, B, [8]], [[9], [10]]],
    "one query twice": [[A, B], [A, D], [[9], [10]]],
    "a positive as a negative": [[A, B, [8]], [C, D, B], [A, [8], D]],
    "its own positive as a negative": [[A, B, B, [8]], [C, D]],
}


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_the_loss_is_that_of_all_candidates_but_false_negatives(texts):
    generator = torch.Generator().manual_seed(3)
    num_texts = sum(map(len, texts))
    vectors = torch.randn(num_texts, 6, dtype=torch.float64, generator=generator)
    vectors = nn.functional.normalize(vectors, dim=-1)
    batch = TASK.collate(rows_of(*texts), CPU)
    assert float(TASK.loss_sum(vectors, batch)) == pytest.approx(
        loss_by_hand(vectors.numpy(), texts), abs=1e-12
    )


def test_each_text_is_a_row_of_the_model():
    batch = TASK.collate(rows_of([A, B], [C, D, [8]]), CPU)
    assert batch.inputs["input_ids_BT"].tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6], [7, 0, 0], [8, 0, 0]]
    assert batch.inputs["attention_mask_BT"].sum(1).tolist() == [2, 1, 3, 1, 1]
    assert batch.targets[:, 0].tolist() == [0, 1, 0, 1, 2]
    assert batch.targets[:, 1].tolist() == [hash_tokens(np.array(text)) for text in (A, B, C, D, [8])]
    assert batch.num_bytes == 10


def test_a_row_of_one_text_is_refused():
    with pytest.raises(ValueError, match=r"row 1 of this batch holds one text, .* dataset\.task=retrieval"):
        TASK.collate(rows_of([A, B], [C]), CPU)


def test_ranks_count_ties_against_the_positive():
    east, north = [1.0, 0.0], [0.0, 1.0]
    vectors = torch.tensor([east, east, north, east, east, north])
    batch = TASK.collate(rows_of([A, B, D], [C, [8], [9]]), CPU)
    # Candidates: east (positive of the first), north, east (positive of the second), north.
    assert find_ranks(score_candidates(vectors, batch.targets)).tolist() == [2, 2]
    apart = vectors.clone()
    apart[4] = torch.tensor([0.6, 0.8])
    assert find_ranks(score_candidates(apart, batch.targets)).tolist() == [1, 2]
    metrics = TASK.metrics(TASK.sums(apart, batch))
    assert (metrics["recall_at_1"], metrics["mrr"]) == (0.5, 0.75)
    assert metrics["loss"] == pytest.approx(float(TASK.loss_sum(apart, batch)) / 2)


def test_hidden_candidates_take_no_rank():
    vectors = torch.tensor([[1.0, 0.0]] * 4)
    same = TASK.collate(rows_of([A, B], [C, B]), CPU)
    assert find_ranks(score_candidates(vectors, same.targets)).tolist() == [1, 1]
    other = TASK.collate(rows_of([A, B], [C, D]), CPU)
    assert find_ranks(score_candidates(vectors, other.targets)).tolist() == [2, 2]


@pytest.mark.parametrize("broken", [0, 2, 4])  # a query, a negative, the other positive
def test_vectors_of_a_diverged_model_have_no_rank(broken):
    vectors = torch.tensor([[1.0, 0.0]] * 5)
    vectors[broken] = torch.nan
    batch = TASK.collate(rows_of([A, B, D], [C, [8]]), CPU)
    metrics = TASK.metrics(TASK.sums(vectors, batch))
    assert all(math.isnan(value) for value in metrics.values()), metrics


def make_model(pooling="mean", dropout=0.0, config=TINY_ENCODER):
    config = config | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    spec = make_spec("retrieval", retrieval=RetrievalRules(pooling=pooling))
    return build_model(Architecture(config=config), spec, vocab_size=VOCABULARY, seed=0).double()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_vector_has_length_one_and_does_not_see_padding(pooling):
    model = make_model(pooling).eval()
    batch = TASK.collate(rows_of([A, B], [C, D]), CPU)
    with torch.no_grad():
        together = model(**batch.inputs)
        for text, vector in zip((A, B, C, D), together, strict=True):
            ids = torch.tensor([text])
            alone = model(ids, torch.ones_like(ids, dtype=torch.bool))[0]
            torch.testing.assert_close(alone, vector, atol=1e-12, rtol=0)
            hidden = model.encoder(input_ids=ids).last_hidden_state[0]
            pooled = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
            torch.testing.assert_close(pooled / pooled.norm(), vector, atol=1e-12, rtol=0)
    assert together.norm(dim=1).tolist() == pytest.approx([1] * 4)


def test_a_decoder_makes_vectors():
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    spec = make_spec("retrieval", retrieval=RetrievalRules(pooling="last"))
    model = build_model(Architecture(config=config), spec, vocab_size=VOCABULARY, seed=0).eval()
    batch = TASK.collate(rows_of([A, C], [C, A]), CPU)
    with torch.no_grad():
        vectors = model(**batch.inputs)
    torch.testing.assert_close(vectors[:2], vectors[2:].flip(0))  # the same texts, padded otherwise or not


def micro_batches(rows, sizes):
    """The rows in parts of these sizes, collated."""
    bounds = np.cumsum([0, *sizes])
    assert bounds[-1] == len(rows.input_ids)
    for start, stop in pairwise(bounds):
        part = Rows(*(None if each is None else each[start:stop] for each in rows))
        yield TASK.collate(part, CPU)


def accumulate(model, rows, sizes, before_pass=lambda number: None):
    torch.manual_seed(7)
    model.zero_grad()
    share = accumulate_compared(
        model,
        micro_batches(rows, sizes),
        TASK,
        num_targets=len(rows.input_ids),
        gather=keep_rows,
        before_pass=before_pass,
    )
    return float(share), gradients_of(model)


def gradients_of(model):
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("sizes", [(12,), (5, 4, 3), (1,) * 12])
def test_micro_batches_do_not_change_loss_and_gradient(sizes):
    model, rows = make_model(), pair_rows(12, seed=1)
    found, gradients = accumulate(model, rows, sizes)
    (batch,) = micro_batches(rows, (12,))
    model.zero_grad()
    vectors = model(**batch.inputs)
    (TASK.loss_sum(vectors, batch) / 12).backward()
    texts = [np.split(row, np.cumsum(each)[:-1]) for row, each in zip(rows[0], rows[2], strict=True)]
    assert found == pytest.approx(loss_by_hand(vectors.detach().numpy(), texts) / 12, abs=1e-12)
    expected = gradients_of(model)
    assert gradients.keys() == expected.keys()
    assert max(float(each.abs().max()) for each in expected.values()) > 0.01
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).abs().max() < 1e-12, name


def test_both_passes_drop_the_same_units():
    model, rows, sizes = make_model(dropout=0.3), pair_rows(12, seed=1), (5, 4, 3)
    found, gradients = accumulate(model, rows, sizes)
    torch.manual_seed(7)
    model.zero_grad()
    batches = list(micro_batches(rows, sizes))
    vectors = torch.cat([model(**batch.inputs) for batch in batches])  # with the graphs of all
    (whole,) = micro_batches(rows, (12,))
    loss = TASK.loss_sum(vectors, whole) / 12
    loss.backward()
    assert found == pytest.approx(float(loss.detach()), abs=1e-12)
    for name, gradient in gradients_of(model).items():
        assert (gradients[name] - gradient).abs().max() < 1e-12, name
    assert abs(found - accumulate(make_model(), rows, sizes)[0]) > 1e-3  # some were dropped


@pytest.mark.parametrize(("sizes", "num_forward"), [((12,), 1), ((6, 6), 4)])
def test_only_several_micro_batches_take_a_second_pass(sizes, num_forward):
    model, seen, passes = make_model(), [], []
    model.register_forward_hook(lambda *of: seen.append(torch.is_grad_enabled()))
    accumulate(model, pair_rows(12, seed=1), sizes, before_pass=passes.append)
    assert len(seen) == num_forward
    assert sum(seen) == len(sizes)  # passes with a graph
    assert passes == list(range(1, len(sizes) + 1))
