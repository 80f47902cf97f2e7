"""Multi-label classification through the five stages: tickets of two intents at once, and of none."""

import csv
import json
import random
from types import SimpleNamespace

import pytest

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.finetune.results import read_result
from pipelines.label_sets import read_label_set, write_label_set
from pipelines.pin import pin
from pipelines.registry.runs.current import read_current
from pipelines.scoring.evaluate import compute_metric
from pipelines.tables import DOCUMENTS, PREDICTIONS, SEQUENCES
from tests.conftest import INTENTS, flow_overrides, write_tickets

pytestmark = pytest.mark.slow

NO_INTENT = "The weather of day {} is fine, and the garden is green"


def write_pairs(folder):
    """train.csv: its labels joined by '|', every eleventh text has none. test.jsonl: arrays of labels."""
    write_tickets(folder)
    for name in ("train", "test"):
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in list(csv.reader(file))[1:] if len(row) == 2]
        others = random.Random(0).sample(rows, len(rows))  # most have another intent
        pairs = [
            (f"{text} {other}", [label, second]) if number % 11 else (NO_INTENT.format(number), [])
            for number, ((text, label), (other, second)) in enumerate(zip(rows, others, strict=True))
        ]
        if name == "train":
            with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
                lines = [(text, "|".join(labels)) for text, labels in pairs]
                csv.writer(file).writerows([("text", "intents"), *lines])
        else:
            lines = [json.dumps({"text": text, "intents": labels}) + "\n" for text, labels in pairs]
            lines.append('{"text": "not known"}\n')
            (folder / "test.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def labelled(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    write_pairs(folder / "raw")
    fields = "fields: {text: text, labels: intents}"
    train = (
        f'{{name: train, path: {folder}/raw/train.csv, format: csv, {fields}, label_separator: "|", '
        "splits: {train: 0.9, validation: 0.1}}"
    )
    # A document whose labels are not known may be scored, but not be learned from: here it is dropped.
    test = f"{{name: test, path: {folder}/raw/test.jsonl, format: jsonl, {fields}, splits: {{test: 1.0}}}}"
    changes = (
        f"corpus.sources=[{train}, {test}]",
        "corpus.rules.min_chars=10",
        "dataset.task=multi_label_classification",
        "finetune.num_epochs=4.0",
        "finetune.micro_batch=4",
    )
    settings = load(overrides=[*flow_overrides(folder), *changes])
    configs = {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}
    outcomes = {name: stage.main(configs[name]) for name, stage in STAGES.items()}
    return SimpleNamespace(folder=folder, configs=configs, outcomes=outcomes)


def test_documents_and_sequences_hold_the_sets(spark, labelled):
    documents = DOCUMENTS.read(spark, labelled.configs["corpus"].documents)
    by_id = {row.doc_id: row for row in documents.where("drop_reason IS NULL").collect()}
    sizes = {len(read_label_set(row.label)) for row in by_id.values()}
    assert sizes == {0, 1, 2}
    facts = pin(labelled.configs["dataset"].sequences).facts
    assert facts["labels"] == sorted(INTENTS)
    rows = SEQUENCES.read(spark, labelled.configs["dataset"].sequences).collect()
    assert len(rows) == len(by_id)
    for row in rows:
        names = write_label_set(facts["labels"][number] for number in row.labels)
        assert names == by_id[row.segments[0].doc_id].label
        assert (row.label, row.num_targets, row.labels) == (None, 1, sorted(row.labels))


def test_the_model_learns_and_becomes_champion(labelled):
    result = read_result(read_current(labelled.configs["finetune"].folder).folder)
    assert result["metric"] == "micro_f1"
    assert result["after"]["micro_f1"] > max(0.65, result["before"]["micro_f1"])
    assert {"exact_match", "macro_f1", "loss"} <= result["after"].keys()
    assert labelled.outcomes["registry"].facts["model version"] == "tickets 1 (champion)"


def test_predictions_list_labels_with_probabilities(spark, labelled):
    predictions = PREDICTIONS.read(spark, labelled.configs["scoring"].predictions)
    rows = predictions.collect()
    sizes = set()
    for row in rows:
        names = [each.label for each in row.labels]
        shares = [each.probability for each in row.labels]
        assert row.prediction == write_label_set(names)
        assert shares == sorted(shares, reverse=True)
        assert all(0.5 <= share <= 1 for share in shares)
        assert 0.5 <= row.score <= min(shares, default=1)
        sizes.add(len(names))
    assert sizes >= {1, 2}
    known = [row for row in rows if row.label is not None]
    assert len(known) == len(rows) - 1
    expected, found = ([set(read_label_set(row[name])) for row in known] for name in ("label", "prediction"))
    both = sum(len(one & other) for one, other in zip(expected, found, strict=True))
    micro_f1 = 2 * both / (sum(map(len, expected)) + sum(map(len, found)))
    assert compute_metric(predictions, "micro_f1") == pytest.approx(micro_f1)
    assert compute_metric(predictions, "exact_match") == pytest.approx(
        sum(one == other for one, other in zip(expected, found, strict=True)) / len(known)
    )
