"""Retrieval on one process: blocks of an evaluation, predictions, a whole training."""

import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

import pipelines.finetune.evaluate as evaluate_module
from pipelines.dataset.examples.example import Document, Part
from pipelines.dataset.reader import SequenceReader, write_split
from pipelines.finetune.average import WeightAverage
from pipelines.finetune.evaluate import choose_rows, evaluate, split_compared
from pipelines.finetune.models.architecture import Architecture, RetrievalRules, parse_use, read_spec
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.worker import train_rank
from pipelines.scoring.predict import Predictor
from tests.conftest import TINY_ENCODER
from tests.finetune import data
from tests.finetune.data import VOCABULARY, make_tokenizer, make_training, pair_rows
from tests.finetune.ranks import alone
from tests.finetune.test_retrieval import CPU, TASK, loss_by_hand, rows_of
from tests.finetune.test_task import make_spec


@pytest.fixture
def few(monkeypatch):
    """Blocks of at most 16 rows."""
    monkeypatch.setattr(evaluate_module, "COMPARED_ROWS", 16)


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_rows", [1, 4, 100])
def test_blocks_are_the_same_for_any_number_of_replicas(few, num_replicas, batch_rows):
    lengths = np.random.default_rng(0).integers(3, 30, 70)
    chosen = choose_rows(70, 50)
    alone = split_compared(chosen, lengths, 0, 1, 50)
    expected = [set(np.concatenate(parts).tolist()) for parts in alone]
    assert sorted(map(len, expected)) == [12, 12, 13, 13]
    assert set().union(*expected) == set(chosen.tolist())
    dealt = [split_compared(chosen, lengths, rank, num_replicas, batch_rows) for rank in range(num_replicas)]
    found = [set(np.concatenate(parts).tolist()) for blocks in dealt for parts in blocks]
    assert sorted(map(sorted, filter(None, found))) == sorted(map(sorted, expected))
    passes = {(len(blocks), *{len(parts) for parts in blocks}) for blocks in dealt}
    assert len(passes) == 1  # as many forward passes on every replica
    assert max(len(part) for blocks in dealt for parts in blocks for part in parts) <= batch_rows


class FirstTokens(nn.Module):
    """Takes the mean of one-hot tokens for the vector of a text: no weights."""

    def forward(self, input_ids_BT, attention_mask_BT):
        counts = nn.functional.one_hot(input_ids_BT.long(), VOCABULARY) * attention_mask_BT[..., None]
        return nn.functional.normalize(counts.sum(1).double(), dim=-1)


@pytest.mark.parametrize("num_replicas", [1, 3, 6])
@pytest.mark.parametrize("batch_rows", [3, 64])
def test_an_evaluation_compares_the_rows_of_a_block(few, tmp_path, num_replicas, batch_rows):
    rows = pair_rows(40, seed=2)
    write_split(tmp_path / "split", rows)
    reader = SequenceReader(tmp_path / "split")
    texts = [np.split(row, np.cumsum(each)[:-1]) for row, each in zip(rows[0], rows[2], strict=True)]
    expected = 0.0
    for parts in split_compared(np.arange(40), reader.lengths, 0, 1, 40):
        block = [texts[row] for row in np.concatenate(parts)]
        batch = TASK.collate(rows_of(*block), CPU)
        expected += loss_by_hand(FirstTokens()(**batch.inputs).numpy(), block)
    sums = []
    task = build_task(make_spec("retrieval"))
    task.metrics = lambda total: sums.append(total) or {}
    for rank in range(num_replicas):
        strategy = SingleProcess(CPU)
        strategy._model, strategy._average = FirstTokens(), WeightAverage({}, Optimization())
        strategy.data_rank, strategy.num_replicas = rank, num_replicas
        assert evaluate(task, reader, strategy, batch_rows=batch_rows).num_rows == 40
    total = sum(sums)
    assert float(total[0]) == pytest.approx(expected, abs=1e-9)
    assert int(total[1]) == 40
    assert 0 < float(total[2]) < float(total[3]) < 40


PAIR = (Part("query", "w4 w5"), Part("positive", "w6 w7 w8"))


@pytest.fixture
def predictor(tmp_path):
    spec = make_spec("retrieval", retrieval=RetrievalRules(temperature=0.2, pooling="cls"))
    model = build_model(Architecture(config=TINY_ENCODER), spec, vocab_size=VOCABULARY, seed=0)
    save_model(model, make_tokenizer().to_str(), spec, tmp_path / "model")
    return Predictor.load(tmp_path / "model")


def test_a_model_folder_keeps_temperature_and_pooling(predictor, tmp_path):
    assert read_spec(tmp_path / "model").retrieval == RetrievalRules(temperature=0.2, pooling="cls")
    assert load_model(tmp_path / "model").module.pooling == "cls"
    use = parse_use((tmp_path / "model" / "model_spec.json").read_bytes(), "a model")
    assert use == ("mrr", True, "retrieval")


def test_predictions_are_vectors_cosines_and_ranks(predictor):
    texts = ["w4 w5", "w6 w7 w8", ""]
    documents = [
        Document("a", "", parts=PAIR),
        Document("b", "", parts=(PAIR[0], Part("positive", "w9"), Part("negative", "w10"))),
        Document("c", "", parts=(PAIR[0],)),
        Document("d", "", parts=(Part("user", "w4"),)),
    ]
    query, positive, empty, *pairs = predictor.predict([*texts, *documents], batch_size=2)
    for each in (query, positive, empty):
        assert (each.score, each.reciprocal_rank, each.problem, each.prediction) == (0, None, None, "")
        assert np.linalg.norm(each.embedding) == pytest.approx(1, abs=1e-4)
    pair, other, alone, unknown = pairs
    assert pair.embedding == pytest.approx(positive.embedding, abs=2e-6)
    assert pair.score == pytest.approx(float(np.dot(query.embedding, positive.embedding)), abs=1e-5)
    assert pair.num_bytes == len("w4 w5") + len("w6 w7 w8")
    assert alone.embedding == pytest.approx(query.embedding, abs=2e-6)
    assert (unknown.embedding, unknown.score) == (None, 0)
    assert "knows query, positive, negative" in unknown.problem
    # The queries are equal, so each positive answers both: only w10 is left to compare with.
    ninth, tenth = (predictor.predict([text])[0].embedding for text in ("w9", "w10"))
    for each, own in ((pair, positive.embedding), (other, ninth)):
        is_first = np.dot(query.embedding, own) > np.dot(query.embedding, tenth)
        assert each.reciprocal_rank == (1.0 if is_first else 0.5)


def test_predictions_rank_within_blocks(predictor, monkeypatch):
    random = np.random.default_rng(0)
    documents = [
        Document(str(number), "", parts=tuple(Part(name, " ".join(f"w{token}" for token in tokens))
                 for name, tokens in zip(("query", "positive"), random.integers(1, 60, (2, 4)), strict=True)))
        for number in range(12)
    ]  # fmt: skip
    whole = [each.reciprocal_rank for each in predictor.predict(documents)]
    assert max(1 / rank for rank in whole) > 5
    monkeypatch.setattr("pipelines.finetune.tasks.retrieval.COMPARED_ROWS", 5)  # 3 blocks of 4, not 5, 5, 2
    blocks = [each.reciprocal_rank for each in predictor.predict(documents)]
    alone = [
        each.reciprocal_rank
        for start in (0, 4, 8)
        for each in predictor.predict(documents[start : start + 4])
    ]
    assert blocks == alone
    assert max(1 / rank for rank in blocks) <= 4


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"temperature": 0.0}, "temperature must be greater than 0 and finite, got 0"),
        ({"temperature": math.inf}, "temperature must be greater than 0 and finite, got inf"),
        ({"temperature": math.nan}, "temperature must be greater than 0 and finite, got nan"),
        ({"pooling": "max"}, "pooling must be mean or cls or last, got 'max'"),
    ],
)
def test_impossible_rules_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        RetrievalRules(**rules)


def test_a_training_learns_and_only_a_retrieval_depends_on_its_rules(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    data.write_sequences(tmp_path / "cache", pair_rows)
    training = make_training(tmp_path, task="retrieval", num_epochs=6.0)
    result = train_rank(training, alone())
    assert result["metric"] == "mrr"
    assert result["before"]["mrr"] < 0.15
    assert result["after"]["mrr"] > 0.4  # several positives are about one topic
    assert result["after"]["loss"] < result["before"]["loss"]
    other = replace(training, spec=replace(training.spec, retrieval=RetrievalRules(temperature=0.2)))
    assert other.identity() != training.identity()
    assert (training.settings()["temperature"], training.settings()["pooling"]) == (0.05, "mean")
    assert "retrieval" not in make_training(tmp_path).identity()["spec"]
