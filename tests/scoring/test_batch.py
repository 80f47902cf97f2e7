"""Scoring a frame: rows in = rows out, equal to the Predictor, whatever the partitions are."""

import math
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.scoring import batch
from pipelines.scoring.evaluate import compute_metric, count_confusion, evaluate_predictions, find_problems
from pipelines.scoring.predict import Predictor
from pipelines.scoring.pull import Place
from pipelines.tables import PREDICTIONS

CHECKOUT = Path(__file__).parents[2]
MODEL = SimpleNamespace(name="intents", version=3, run_id="r1")
SCORED_AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ROWS = [
    (f"d{i:02}", text, label)
    for i, (text, label) in enumerate(
        [
            ("my card was lost", "lost_card"),
            ("", "top_up"),
            ("请给我退款", "退款"),
            ("how do I top up " * 30, None),
        ]
        * 8
    )
]


@pytest.fixture(scope="module")
def documents(spark):
    return as_documents(spark, ROWS).repartition(3, "doc_id").cache()


def as_documents(spark, rows):
    """Documents with the hash and the size that the corpus stage would write."""
    made = [(*row, sha256(row[1].encode()).hexdigest()[:32], len(row[1].encode()), None) for row in rows]
    return spark.createDataFrame(
        made, "doc_id STRING, text STRING, label STRING, content_hash STRING, num_bytes INT, adapter STRING"
    )


def in_place(folder):
    return Place("folder", str(folder), None, "accuracy")


def score(documents, folder, **options):
    where = folder if isinstance(folder, Place) else in_place(folder)
    return batch.score_documents(documents, where, MODEL, documents_version=5, scored_at=SCORED_AT, **options)


@pytest.fixture(scope="module")
def scored(documents, classifier_folder):
    return score(documents, classifier_folder).cache()


def test_every_document_gets_the_prediction_of_the_predictor(scored, classifier_folder):
    rows = sorted(scored.collect(), key=lambda row: row.doc_id)
    assert [(row.doc_id, row.text, row.label) for row in rows] == ROWS
    expected = Predictor.load(classifier_folder).predict([text for _, text, _ in ROWS])
    assert [row.prediction for row in rows] == [p.prediction for p in expected]
    assert [row.score for row in rows] == pytest.approx([p.score for p in expected], abs=1e-5)


def test_the_frame_is_the_predictions_table(scored):
    assert [(c.name, c.dataType) for c in scored.schema] == [(c.name, c.dataType) for c in PREDICTIONS.schema]
    digest, num_rows = PREDICTIONS.digest(scored)
    assert (len(digest), num_rows) == (32, len(ROWS))
    first = scored.first()
    assert (first.model_name, first.model_version, first.run_id, first.documents_version) == (
        "intents",
        3,
        "r1",
        5,
    )
    assert {row.scored_at.timestamp() for row in scored.select("scored_at").distinct().collect()} == {
        SCORED_AT.timestamp()
    }
    assert min(row.latency_ms for row in scored.collect()) > 0


def test_a_second_scoring_has_the_same_digest(scored, documents, classifier_folder):
    assert PREDICTIONS.digest(score(documents, classifier_folder)) == PREDICTIONS.digest(scored)


def test_other_partitions_and_slices_move_scores_by_noise_only(
    scored, documents, classifier_folder, monkeypatch
):
    monkeypatch.setattr(batch, "SLICE_ROWS", 2)
    other = {
        row.doc_id: row for row in score(documents.coalesce(1), classifier_folder, batch_size=5).collect()
    }
    for row in scored.collect():
        assert other[row.doc_id].prediction == row.prediction
        assert other[row.doc_id].score == pytest.approx(row.score, abs=1e-5)


def predictions(spark, rows, problems=None):
    problems = problems or [None] * len(rows)
    return spark.createDataFrame(
        [(f"d{i}", *row, len(row[0].encode()), problems[i]) for i, row in enumerate(rows)],
        "doc_id STRING, text STRING, label STRING, prediction STRING, score DOUBLE, num_bytes LONG, "
        "problem STRING",
    )


def test_documents_that_could_not_be_read_are_counted(spark):
    frame = predictions(spark, [("t", None, "", 8.0)] * 4, [None, "first", None, "second"])
    assert find_problems(frame.repartition(3, "problem")) == (2, "first")
    assert find_problems(frame.where("problem IS NULL")) == (0, None)
    measured = evaluate_predictions(frame, model_version=1, task="chat", metric="bits_per_byte")
    assert (measured.num_rows, measured.num_unreadable, measured.first_problem) == (4, 2, "first")


def test_accuracy_counts_labelled_documents_only(spark):
    # By hand: of three labelled documents one is right.
    rows = [("t", "a", "a", 0.9), ("t", "a", "b", 0.9), ("t", "b", "a", 0.9), ("t", None, "a", 0.9)]
    frame = predictions(spark, rows)
    assert compute_metric(frame, "accuracy") == pytest.approx(1 / 3)
    assert [tuple(row) for row in count_confusion(frame).collect()] == [
        ("a", "a", 1),
        ("a", "b", 1),
        ("b", "a", 1),
    ]
    assert evaluate_predictions(frame, model_version=3, task="t", metric="accuracy").num_rows == 3


def test_bits_per_byte_weighs_texts_by_their_bytes(spark):
    # By hand: 退 is 3 bytes of 2 bits, "a" 1 byte of 6 bits: (3 * 2 + 6) / 4 = 3; the empty text has no
    # weight.
    rows = [("退", None, "", 2.0), ("a", None, "", 6.0), ("", None, "", 0.0)]
    assert compute_metric(predictions(spark, rows), "bits_per_byte") == pytest.approx(3.0)


def test_a_diverged_model_has_no_metric(spark):
    frame = spark.createDataFrame(
        [(0.5, 2, 1.0), (float("nan"), 2, float("nan")), (0.0, 0, None)],
        "score DOUBLE, num_bytes LONG, reciprocal_rank DOUBLE",
    )
    finite = frame.where("NOT isnan(score)")
    for metric in ("preference_accuracy", "recall_at_1", "mrr"):
        assert compute_metric(finite, metric) == 1
        assert math.isnan(compute_metric(frame, metric)), metric
    assert math.isnan(compute_metric(frame, "bits_per_byte"))


def test_a_metric_of_nothing_is_an_error(spark):
    with pytest.raises(ValueError, match=r"no accuracy \(num_labelled must be above 0"):
        compute_metric(predictions(spark, [("t", None, "a", 0.9)]), "accuracy")
    with pytest.raises(ValueError, match=r"no bits_per_byte \(num_bytes must be above 0"):
        compute_metric(predictions(spark, [("", None, "a", 0.0)]), "bits_per_byte")


def test_a_metric_without_its_sums_names_the_others(spark):
    frame = predictions(spark, [("t", "a", "a", 0.9)])
    needs = (
        r"macro_f1 needs class_matches, class_labels, class_predictions, .* take one of: accuracy, .*bits_"
    )
    with pytest.raises(ValueError, match=needs):
        compute_metric(frame, "macro_f1")


def test_sets_of_labels_are_compared_name_by_name(spark):
    # By hand: matches a; b, c. Labels a; b, c; x; none. A name that the model does not know, a label that is
    # no set, and a document without labels count; one whose labels are not known does not. A set in another
    # order, with blanks and a name twice is the same set.
    rows = [
        ("t", '["a"]', '["a","b"]', 0.9),
        ("t", '["c", "b", "c"]', '["b","c"]', 0.9),
        ("t", '["unknown"]', "[]", 0.9),
        ("t", "[]", '["a"]', 0.9),
        ("t", "plain", '["c"]', 0.9),
        ("t", None, '["a","b","c"]', 0.9),
    ]
    frame = predictions(spark, rows)
    assert compute_metric(frame, "micro_f1") == pytest.approx(2 * 3 / (5 + 6))
    assert compute_metric(frame, "exact_match") == pytest.approx(1 / 5)
    measured = evaluate_predictions(frame, model_version=1, task="t", metric="micro_f1")
    assert (measured.num_rows, measured.value) == (5, pytest.approx(6 / 11))
    with pytest.raises(ValueError, match=r"no micro_f1 \(num_labels must be above 0"):
        compute_metric(predictions(spark, rows[3:4]), "micro_f1")


def test_two_models_on_equal_documents_have_equal_rows_digests(spark):
    one = predictions(spark, [("t", "a", "a", 0.9), ("u", "b", "a", 0.8)])
    two = predictions(spark, [("t", "a", "b", 0.1), ("u", "b", "b", 0.2)]).repartition(2)
    other = predictions(spark, [("t", "a", "a", 0.9), ("u", "a", "a", 0.8)])
    digests = [
        evaluate_predictions(frame, model_version=1, task="t", metric="accuracy").rows_digest
        for frame in (one, two, other)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_the_driver_loads_no_torch():
    code = (
        "import sys, pipelines.scoring.batch, pipelines.scoring.compare, pipelines.scoring.evaluate\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    assert ended.stdout.strip() == "[]"
