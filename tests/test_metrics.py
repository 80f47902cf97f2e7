"""Formulas against values worked out by hand, and the table of metrics."""

import math

import pytest

from pipelines.metrics import METRICS


def compute(name, **sums):
    return METRICS[name].compute(sums)


def test_accuracy_by_hand():
    assert compute("accuracy", num_correct=3, num_labelled=4) == 0.75


def test_macro_f1_skips_classes_without_rows():
    # Class 0: 2 * 1 / (2 + 1). Class 1: 2 * 2 / (2 + 3). Class 2 never occurs as a label.
    counts = {"class_matches": [1, 2, 0], "class_labels": [2, 2, 0], "class_predictions": [1, 3, 0]}
    assert compute("macro_f1", **counts) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_macro_f1_counts_a_class_never_predicted_as_zero():
    counts = {"class_matches": [0, 2], "class_labels": [2, 2], "class_predictions": [0, 4]}
    assert compute("macro_f1", **counts) == pytest.approx((0 + 2 * 2 / (2 + 4)) / 2)


def test_micro_f1_counts_all_classes_together():
    # Precision 3 of 5, recall 3 of 4: 2 * 0.6 * 0.75 / 1.35.
    assert compute("micro_f1", num_matches=3, num_labels=4, num_predictions=5) == pytest.approx(0.9 / 1.35)
    assert compute("micro_f1", num_matches=0, num_labels=4, num_predictions=0) == 0
    with pytest.raises(ValueError, match="num_labels must be above 0 for a metric, got 0"):
        compute("micro_f1", num_matches=0, num_labels=0, num_predictions=5)


def test_an_exact_match_is_a_whole_set():
    assert compute("exact_match", num_exact=1, num_labelled=4) == 0.25


def test_language_metrics_of_a_uniform_guess():
    # Three tokens, each guessed among 8: 3 bits a token, 9 bits over 6 bytes.
    sums = {"nats": 3 * math.log(8), "num_targets": 3, "num_bytes": 6}
    assert compute("loss", **sums) == pytest.approx(math.log(8))
    assert compute("perplexity", **sums) == pytest.approx(8)
    assert compute("bits_per_byte", **sums) == pytest.approx(1.5)


def test_perplexity_of_a_diverged_model_stays_finite():
    assert math.isfinite(compute("perplexity", nats=1e9, num_targets=1))


def test_gain_is_positive_for_the_better_value():
    assert METRICS["accuracy"].gain(0.9, 0.8) == pytest.approx(0.1)
    assert METRICS["bits_per_byte"].gain(1.0, 1.5) == pytest.approx(0.5)


def test_a_metric_of_no_rows_names_the_sum():
    with pytest.raises(ValueError, match="num_labelled must be above 0 for a metric, got 0"):
        compute("accuracy", num_correct=0, num_labelled=0)
    with pytest.raises(ValueError, match="num_bytes must be above 0"):
        compute("bits_per_byte", nats=1.0, num_bytes=0)


def test_every_entry_has_its_own_name():
    assert {name: metric.name for name, metric in METRICS.items()} == {name: name for name in METRICS}
