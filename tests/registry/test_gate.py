"""The gate: the expected verdicts are written by hand."""

import json
import math
import re
from dataclasses import replace

import pytest

from pipelines.registry.gate.decide import Measurement, decide
from pipelines.registry.gate.decontamination import find_contaminated


def measurement(version, value, *, task="classification", metric="accuracy", num_rows=100, digest="d1"):
    return Measurement(
        model_version=version, task=task, metric=metric, value=value, num_rows=num_rows, rows_digest=digest
    )


@pytest.mark.parametrize(
    ("metric", "challenger", "champion", "promote"),
    [
        ("accuracy", 0.91, 0.90, True),
        ("accuracy", 0.90, 0.90, False),
        ("accuracy", 0.89, 0.90, False),
        ("bits_per_byte", 1.1, 1.2, True),
        ("bits_per_byte", 1.2, 1.2, False),
        ("bits_per_byte", 1.3, 1.2, False),
        ("accuracy", math.nan, 0.90, False),
        ("accuracy", 0.10, math.nan, True),
    ],
)
def test_the_better_one_wins_and_a_tie_keeps_the_champion(metric, challenger, champion, promote):
    verdict = decide(measurement(2, challenger, metric=metric), measurement(1, champion, metric=metric))
    assert verdict.promote is promote


@pytest.mark.parametrize(("gain", "promote"), [(0.25, True), (0.125, False)])
def test_a_gain_below_min_gain_is_not_enough(gain, promote):
    assert decide(measurement(2, 0.5 + gain), measurement(1, 0.5), min_gain=0.25).promote is promote


@pytest.mark.parametrize(
    ("challenger", "champion", "min_gain", "promote"),
    [(0.9, 0.8, 0.1, True), (0.82, 0.81, 0.01, True), (0.899, 0.8, 0.1, False), (0.1 + 0.2, 0.3, 0.0, False)],
)
def test_rounding_errors_decide_nothing(challenger, champion, min_gain, promote):
    assert decide(measurement(2, challenger), measurement(1, champion), min_gain=min_gain).promote is promote


@pytest.mark.parametrize(("value", "promote"), [(0.01, True), (math.nan, False), (math.inf, False)])
def test_the_first_version_is_promoted_unless_it_diverged(value, promote):
    assert decide(measurement(1, value), None).promote is promote


def test_measurements_on_different_rows_are_refused():
    with pytest.raises(
        ValueError, match=r"different rows \(100 with digest d2, 100 with digest d1\).*score both"
    ):
        decide(measurement(2, 0.9, digest="d2"), measurement(1, 0.8))
    with pytest.raises(ValueError, match="different rows"):
        decide(measurement(2, 0.9, num_rows=99), measurement(1, 0.8))


@pytest.mark.parametrize(("num_unreadable", "promote"), [(0, True), (10, True), (11, False)])
@pytest.mark.parametrize("champion", [None, measurement(1, 0.5)])
def test_a_model_whose_template_refuses_many_documents_is_not_promoted(num_unreadable, promote, champion):
    challenger = replace(
        measurement(2, 0.9), num_unreadable=num_unreadable, first_problem="turn 1 has role 'bot'"
    )
    verdict = decide(challenger, champion)
    assert verdict.promote is promote
    said = f"{num_unreadable} documents could not be written with the template; first: turn 1 has role 'bot'"
    assert (said in verdict.reason) is (num_unreadable > 0)
    assert verdict.reason.endswith("11.0%, at most 10% may be") is not promote
    assert verdict.to_dict()["challenger"]["num_unreadable"] == num_unreadable


def test_models_of_two_tasks_are_not_compared():
    chat, text = (
        measurement(version, 1.0 / version, task=task, metric="bits_per_byte")
        for version, task in ((2, "chat"), (1, "language_modelling"))
    )
    with pytest.raises(
        ValueError, match=r"version 2 has task chat, .* version 1, task language_modelling; .*registry\.name"
    ):
        decide(chat, text)


def test_measurements_of_two_metrics_are_refused():
    with pytest.raises(ValueError, match="version 2 was measured by bits_per_byte, version 1 by accuracy"):
        decide(measurement(2, 0.9, metric="bits_per_byte"), measurement(1, 0.8))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metric": "vibes"}, "unknown metric 'vibes'; known: accuracy, macro_f1, .*bits_per_byte"),
        ({"num_rows": 0}, "measured on 0 rows; at least 1"),
    ],
)
def test_a_meaningless_measurement_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        measurement(1, 0.5, **wrong)


@pytest.mark.parametrize("min_gain", [-0.1, math.inf, math.nan])
def test_a_meaningless_min_gain_is_refused(min_gain):
    with pytest.raises(ValueError, match=f"min_gain must be at least 0 and finite, got {min_gain}"):
        decide(measurement(2, 0.9), measurement(1, 0.8), min_gain=min_gain)


def test_a_verdict_is_strict_json():
    written = json.loads(
        json.dumps(decide(measurement(2, math.nan), measurement(1, 0.5)).to_dict(), allow_nan=False)
    )
    assert written["promote"] is False
    assert written["challenger"] == {
        "model_version": 2,
        "task": "classification",
        "metric": "accuracy",
        "value": None,
        "num_rows": 100,
        "rows_digest": "d1",
        "num_unreadable": 0,
        "first_problem": None,
    }
    assert written["champion"]["value"] == 0.5


HITS = {"records": 40, "too_short": 2, "records_hit": 3, "documents": 5, "exceeding": 4, "ngrams": 9}
LIMITS = {"on_hit": "drop", "drop_from": ["train", "validation"], "min_record_words": 8}


@pytest.mark.parametrize(
    ("gsm8k", "limits", "reasons"),
    [
        (HITS, LIMITS, []),
        ({**HITS, "exceeding": 0}, {**LIMITS, "on_hit": "report"}, []),
        (None, LIMITS, [r"not compared with gsm8k; add it to corpus\.decontamination\.evaluation_sets$"]),
        (
            HITS,
            {**LIMITS, "on_hit": "report"},
            [r"^4 of documents version 3 have too much of gsm8k .*; set .*decontamination\.on_hit=drop$"],
        ),
        (HITS, {**LIMITS, "drop_from": ["validation"]}, ["not compared in train; add train to .*drop_from$"]),
        ({**HITS, "records": 2}, LIMITS, ["^none of the 2 records of gsm8k has .* = 8 words.*; lower it$"]),
        (HITS, None, ["the commit of documents version 3 does not say where .*; make them again$"]),
    ],
)
def test_each_gap_in_decontamination_is_a_reason_with_its_remedy(gsm8k, limits, reasons):
    facts = {"contamination": {"mmlu": {**HITS, "exceeding": 0}}}
    facts["contamination"] |= {"gsm8k": gsm8k} if gsm8k else {}
    facts |= {"decontamination": limits} if limits else {}
    found = list(find_contaminated(facts, ("mmlu", "gsm8k"), "documents version 3"))
    assert len(found) == len(reasons)
    assert all(map(re.search, reasons, found))


def test_documents_that_were_compared_with_nothing_lack_every_set():
    (reason,) = find_contaminated({"records": 9}, ("mmlu", "gsm8k"), "documents version 3")
    assert reason.startswith("documents version 3 were not compared with mmlu, gsm8k; add it to")


def test_documents_whose_commit_is_gone_are_no_proof():
    (reason,) = find_contaminated(None, ("mmlu",), "documents version 3")
    assert reason.startswith("the commit of documents version 3 is gone or of another program, so nothing")
