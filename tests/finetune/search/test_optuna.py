"""Candidates that Optuna proposes."""

import math
import sys

import pytest

from pipelines.finetune.search.candidates import PROPOSERS
from pipelines.finetune.search.rules import Range, SearchRules
from pipelines.finetune.search.run import run_rounds
from pipelines.finetune.search.score import Score, choose_best

SPACE = {
    "global_batch": (8, 16),
    "optimization.learning_rate": Range(low=1e-5, high=1e-1, log=True),
    "window_batches": Range(low=1, high=9, integer=True),
}


def accuracy(candidate):
    """Best at a learning rate of 0.003 with batches of 16."""
    distance = math.log10(candidate.settings["optimization.learning_rate"] / 0.003)
    return 0.9 - 0.1 * distance**2 - 0.05 * (candidate.settings["global_batch"] == 8)


def search(rules, *, failing=()):
    asked = []

    def run(candidates):
        asked.append(len(candidates))
        return [
            Score(candidate=each, error="OOM")
            if each.number in failing
            else Score(candidate=each, metric="accuracy", values=(accuracy(each),))
            for each in candidates
        ]

    return run_rounds(PROPOSERS["optuna"](rules, SPACE), run), asked


def test_equal_seeds_and_scores_propose_equal_candidates():
    pytest.importorskip("optuna")
    rules = SearchRules(method="optuna", num_trials=14, optuna_batch=4, seed=5)
    found, asked = search(rules, failing={3})
    assert asked == [4, 4, 4, 2]
    assert [each.candidate.number for each in found] == list(range(14))
    assert search(rules, failing={3})[0] == found  # so a search that was killed goes on as it began
    others, _ = search(SearchRules(method="optuna", num_trials=14, seed=6), failing={3})
    assert [each.candidate for each in others] != [each.candidate for each in found]


def test_later_candidates_are_better_than_random_ones():
    pytest.importorskip("optuna")
    found, _ = search(SearchRules(method="optuna", num_trials=60, seed=1))
    first, last = ([each.value for each in part] for part in (found[:10], found[-20:]))
    assert sum(last) / 20 > sum(first) / 10
    rate = choose_best(found).candidate.settings["optimization.learning_rate"]
    assert 0.001 < rate < 0.01
    assert {type(each.candidate.settings["window_batches"]) for each in found} == {int}


def test_without_optuna_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"install the \[search\] extra or set method: random"):
        search(SearchRules(method="optuna"))
