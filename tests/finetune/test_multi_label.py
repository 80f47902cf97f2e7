"""Multi-label classification: loss and metrics by hand, sets in batches and predictions, whole trainings."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.dataset.examples.example import Document
from pipelines.dataset.reader import SequenceReader, write_split
from pipelines.dataset.rows import LABEL_SET
from pipelines.finetune.models.architecture import Architecture
from pipelines.finetune.models.build import build_model
from pipelines.finetune.models.folder import load_model, save_model
from pipelines.finetune.results import read_result
from pipelines.finetune.splits import open_splits
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.worker import train_rank
from tests.finetune import data
from tests.finetune.ranks import alone
from tests.finetune.test_task import CPU, make_rows, make_spec

TASK, LABELS = "multi_label_classification", ("a", "b", "c")
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {"model_type": "bert", **SIZES}


def make_task(**fields):
    return build_task(make_spec(TASK, LABELS, **fields))


def make_label_rows(*label_sets):
    sets = [np.array(each, np.int32) for each in label_sets]
    return make_rows(*[[5, 6]] * len(sets), labels=[LABEL_SET] * len(sets))._replace(label_sets=sets)


def logits_of(*probabilities):
    return torch.logit(torch.tensor(probabilities))


def test_a_batch_marks_the_classes_of_each_row():
    batch = make_task().collate(make_label_rows([0, 2], [], [0, 1, 2]), CPU)
    assert batch.targets.tolist() == [[True, False, True], [False, False, False], [True, True, True]]
    assert batch.targets.dtype == torch.bool
    assert batch.inputs["input_ids_BT"].tolist() == [[5, 6]] * 3


def test_the_loss_is_that_of_every_pair_of_document_and_class():
    task, rows = make_task(), make_label_rows([0, 2], [])
    logits = logits_of([0.8, 0.3, 0.4], [0.1, 0.5, 0.25])
    nats = -sum(map(math.log, [0.8, 0.7, 0.4, 0.9, 0.5, 0.75]))
    batch = task.collate(rows, CPU)
    assert float(task.loss_sum(logits, batch)) == pytest.approx(nats)
    assert task.count_targets(rows.num_targets).tolist() == [3, 3]
    assert task.metrics(task.sums(logits, batch))["loss"] == pytest.approx(nats / 6)


def test_a_loss_in_16_bits_is_summed_in_32():
    task, batch = make_task(), make_task().collate(make_label_rows([0, 2], []), CPU)
    logits = logits_of([0.8, 0.3, 0.4], [0.1, 0.5, 0.25]).bfloat16()
    found, expected = task.loss_sum(logits, batch), task.loss_sum(logits.float(), batch)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert task.loss_sum(logits.double(), batch).dtype == torch.float64


def test_metrics_by_hand():
    task = make_task()
    batch = task.collate(make_label_rows([0, 1], [0], [], [1]), CPU)
    # Predicted: {a}, {a}, {}, {a, b}.
    logits = logits_of([0.9, 0.2, 0.1], [0.6, 0.4, 0.1], [0.1, 0.2, 0.3], [0.7, 0.5, 0.1])
    sums = task.sums(logits, batch)
    metrics = task.metrics(task.sums(logits, batch, sums.clone()))  # sums add over batches
    # Matches: a 2, b 1. Labels: a 2, b 2. Predictions: a 3, b 1. c does not occur.
    assert metrics["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert metrics["macro_f1"] == pytest.approx((2 * 2 / (2 + 3) + 2 * 1 / (2 + 1)) / 2)
    assert metrics["exact_match"] == 2 / 4
    assert task.confusion(sums) is None


def test_the_threshold_of_the_model_decides():
    batch = make_task().collate(make_label_rows([0, 1]), CPU)
    logits = logits_of([0.9, 0.3, 0.1])
    low, high = (make_task(label_threshold=threshold) for threshold in (0.25, 0.5))
    assert low.metrics(low.sums(logits, batch))["micro_f1"] == 1
    assert high.metrics(high.sums(logits, batch))["micro_f1"] == pytest.approx(2 / 3)


def test_rows_without_sets_are_refused():
    single = make_rows([5, 6], [7], labels=[0, 1])
    with pytest.raises(ValueError, match=r"no set of classes; .*dataset.task=multi_label_classification"):
        make_task().collate(single, CPU)
    packed = make_label_rows([0])._replace(segment_lengths=[np.array([1, 1], np.int32)])
    with pytest.raises(ValueError, match=r"row 0 .* holds 2 documents.*packing.method=one_per_document"):
        make_task().collate(packed, CPU)
    with pytest.raises(ValueError, match=r"needs label_threshold .* set finetune.label_threshold"):
        build_task(make_spec(TASK, LABELS, label_threshold=None))


def test_an_evaluation_without_any_label_is_refused():
    task = make_task()
    sums = task.sums(torch.zeros(1, 3), task.collate(make_label_rows([]), CPU))
    with pytest.raises(ValueError, match="num_labels must be above 0 for a metric, got 0"):
        task.metrics(sums)


def test_sets_are_read_back_in_any_order(tmp_path):
    rows = data.label_set_rows(30, seed=3)
    assert {len(each) for each in rows.label_sets} >= {0, 1, 2}
    write_split(tmp_path / "sets", rows)
    reader, order = SequenceReader(tmp_path / "sets"), np.random.default_rng(1).permutation(30)
    found = reader.rows(order)
    assert [each.tolist() for each in found.label_sets] == [rows.label_sets[row].tolist() for row in order]
    assert (found.labels == LABEL_SET).all()
    write_split(tmp_path / "none", data.text_rows(5, seed=3))
    assert SequenceReader(tmp_path / "none").rows(np.arange(5)).label_sets is None


@torch.inference_mode()
def test_a_prediction_is_a_set_with_its_probabilities(tmp_path):
    spec = make_spec(TASK, ("\u7532", "b", "c"), label_threshold=0.3)
    spec = replace(spec, labels=tuple(sorted(spec.labels)))
    module = build_model(Architecture(config=BERT), spec, vocab_size=64, seed=1)
    module.head.weight.data.zero_()  # so all texts have the probabilities of the biases
    module.head.bias.data = torch.logit(torch.tensor([0.4, 0.2, 0.9]))
    save_model(module, data.make_tokenizer().to_str(), spec, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.spec == spec
    task = build_task(loaded.spec)
    texts = [Document("", "w1 w2 w3"), Document("", ""), Document("", "w5")]
    for found in task.predict(loaded.module.eval(), loaded.tokenizer, texts, batch_size=2):
        assert found.prediction == '["b","\u7532"]'
        assert [name for name, _ in found.labels] == ["\u7532", "b"]
        assert [share for _, share in found.labels] == pytest.approx([0.9, 0.4])
        assert found.score == pytest.approx(0.4)  # of b; c stays out with 0.8
    module.head.bias.data -= 10
    (found,) = task.predict(module.eval(), loaded.tokenizer, texts[:1], batch_size=2)
    assert (found.prediction, found.labels) == ("[]", [])
    assert found.score == pytest.approx(1 - torch.sigmoid(module.head.bias).max().item())


@pytest.fixture
def label_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    data.write_sequences(tmp_path / "cache", data.label_set_rows)
    return tmp_path


def test_a_training_learns_which_classes_a_text_has(label_root):
    cadence = {"evaluate_every_steps": 50, "checkpoint_every_steps": 50}
    training = data.make_training(label_root, task=TASK, num_epochs=20.0, **cadence)
    result = train_rank(training, alone())
    assert result["metric"] == "micro_f1"
    assert result["before"]["loss"] == pytest.approx(math.log(2), abs=0.1)  # of one decision, not of a row
    assert result["after"]["loss"] < 0.5 * result["before"]["loss"]
    assert result["after"]["micro_f1"] > 0.8
    assert result["after"]["exact_match"] > 0.4
    assert result["confusion"] is None
    assert result == read_result(training.folder)


@pytest.mark.parametrize(("split", "limit"), [("validation", None), ("test", 20)])
def test_a_split_without_labels_is_named_when_the_data_are_opened(tmp_path, monkeypatch, split, limit):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))

    def make_rows(num_rows, seed):
        rows = data.label_set_rows(num_rows, seed)
        none = [np.empty(0, np.int32)] * num_rows
        return rows._replace(label_sets=none) if list(data.NUM_ROWS)[seed] == split else rows

    data.write_sequences(tmp_path / "cache", make_rows)
    training = data.make_training(tmp_path, task=TASK, max_evaluation_sequences=limit)
    raised = "" if limit is None else ", raise finetune.max_evaluation_sequences"
    message = (
        rf"^split {split} of .*: none of the {limit or 40} sequences .* has a label, .*splits\){raised}, or"
    )
    with pytest.raises(ValueError, match=message):
        train_rank(training, alone())
    assert open_splits(replace(training, spec=replace(training.spec, task="classification")), 1)


def test_only_this_task_depends_on_the_threshold(label_root):
    sets, other = data.make_training(label_root, task=TASK), data.make_training(label_root)
    lower = replace(sets, spec=replace(sets.spec, label_threshold=0.3))
    assert lower.identity() != sets.identity()
    assert (lower.settings()["label_threshold"], "label_threshold" in other.settings()) == (0.3, False)
    assert "label_threshold" not in other.identity()["spec"]
