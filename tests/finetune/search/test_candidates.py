"""Candidates of the methods, by hand and by formula; no training."""

import math
from dataclasses import fields, replace

import pytest

from pipelines.finetune.search.candidates import PROPOSERS, describe_lack, draw_candidates, plan_rounds
from pipelines.finetune.search.rules import LEARNING_RATE, Range, SearchRules
from pipelines.finetune.search.run import run_rounds
from pipelines.finetune.search.score import Candidate, Score, choose_best, rank
from pipelines.finetune.training import Execution

SPACE = {
    "global_batch": (8, 16, 32),
    "num_epochs": Range(low=1, high=3),
    "optimization.learning_rate": Range(low=1e-5, high=1e-3, log=True),
    "window_batches": Range(low=1, high=4, integer=True),
}


def score(number, *values, rung=0, metric="accuracy", error=None):
    candidate = Candidate(number=number, settings={"seed": number}, rung=rung)
    return Score(candidate=candidate, metric="" if error else metric, values=values, error=error)


def test_equal_seeds_draw_equal_candidates_and_others_draw_others():
    rules = SearchRules(num_trials=20, seed=3)
    assert draw_candidates(rules, SPACE) == draw_candidates(rules, SPACE)
    assert draw_candidates(rules, SPACE) != draw_candidates(SearchRules(num_trials=20, seed=4), SPACE)


def test_more_trials_and_more_keys_leave_the_drawn_values_as_they_are():
    one_key = {"optimization.learning_rate": SPACE["optimization.learning_rate"]}
    few = draw_candidates(SearchRules(num_trials=4), one_key)
    many = draw_candidates(SearchRules(num_trials=9), SPACE)
    rates = [each.settings["optimization.learning_rate"] for each in many]
    assert rates[:4] == [each.settings["optimization.learning_rate"] for each in few]


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"global_batch": (16, 32)}, {(16,), (32,)}),
        ({"seed": Range(low=3, high=6, integer=True)}, {(3,), (4,), (5,), (6,)}),
        (
            {"global_batch": (16, 32), "seed": Range(low=1, high=2, integer=True)},
            {(16, 1), (16, 2), (32, 1), (32, 2)},
        ),
        # Two values of four digits, and no list of them.
        ({"num_epochs": Range(low=1.0, high=1.001)}, {(1.0,), (1.001,)}),
    ],
)
def test_a_small_space_is_drawn_whole_and_nothing_twice(space, expected):
    for seed in range(20):
        rules = SearchRules(num_trials=8, seed=seed)
        drawn = [tuple(each.settings.values()) for each in draw_candidates(rules, space)]
        assert sorted(drawn) == sorted(expected)


def test_more_trials_of_a_small_space_keep_those_before():
    space = {"global_batch": (8, 16, 32, 64), "seed": (1, 2, 3)}
    all_of_it = draw_candidates(SearchRules(num_trials=12), space)
    assert len({str(each.settings) for each in all_of_it}) == 12
    for num_trials in range(1, 12):
        assert draw_candidates(SearchRules(num_trials=num_trials), space) == all_of_it[:num_trials]


def test_a_value_that_is_hardly_ever_drawn_is_found_all_the_same():
    space = {"seed": Range(low=1, high=300, log=True, integer=True)}
    drawn = [each.settings["seed"] for each in draw_candidates(SearchRules(num_trials=301), space)]
    assert sorted(drawn) == list(range(1, 301))  # 300 has a chance of 1 in 1,700 at each draw


def test_a_space_with_too_few_candidates_is_named():
    for method in ("random", "halving"):
        rules = SearchRules(method=method, num_trials=8)
        assert describe_lack(rules, 8) is None
        assert "only 2 different candidates, and num_trials is 8" in describe_lack(rules, 2)
    assert describe_lack(SearchRules(method="grid", num_trials=8), 2) is None


def test_drawn_values_stay_in_their_ranges_and_reach_all_of_them():
    drawn = [each.settings for each in draw_candidates(SearchRules(num_trials=2000), SPACE)]
    rates = [each["optimization.learning_rate"] for each in drawn]
    assert min(rates) >= 1e-5
    assert max(rates) <= 1e-3
    # Log-uniform: half of the draws lie below the geometric mean, 1e-4; four standard errors are 0.045.
    assert abs(sum(rate < 1e-4 for rate in rates) / 2000 - 0.5) < 0.045
    assert {each["window_batches"] for each in drawn} == {1, 2, 3, 4}
    assert {each["global_batch"] for each in drawn} == {8, 16, 32}
    assert all(isinstance(each["window_batches"], int) and 1 <= each["num_epochs"] <= 3 for each in drawn)


def test_a_logarithmic_range_of_integers_reaches_both_ends():
    space = {"window_batches": Range(low=1, high=4, log=True, integer=True)}
    drawn = {each.settings["window_batches"] for each in draw_candidates(SearchRules(num_trials=500), space)}
    assert drawn == {1, 2, 3, 4}


def test_a_grid_has_every_combination_once_in_order():
    rules = SearchRules(method="grid", space={"seed": (1, 2), "global_batch": (8, 16)})
    (candidates,) = list(PROPOSERS["grid"](rules, rules.list_space(0.1)))
    assert [tuple(each.settings.values()) for each in candidates] == [(8, 1), (8, 2), (16, 1), (16, 2)]
    assert [each.number for each in candidates] == [0, 1, 2, 3]
    many = {key: tuple(range(11)) for key in ("seed", "num_epochs", "window_batches")}
    with pytest.raises(ValueError, match="at most 1000 combinations for method grid, got 1331"):
        next(PROPOSERS["grid"](rules, many))


def test_an_empty_space_is_the_learning_rate_around_the_configured_one():
    space = SearchRules().list_space(0.003)
    assert space.keys() == {LEARNING_RATE}
    assert (space[LEARNING_RATE].low, space[LEARNING_RATE].high) == pytest.approx((0.0003, 0.03))
    grid = SearchRules(method="grid", space={"seed": None}).list_space(0.003)
    assert grid == {LEARNING_RATE: (0.0003, 0.0009487, 0.003, 0.009487, 0.03)}


@pytest.mark.parametrize(
    ("num_trials", "factor", "least", "expected"),
    [
        (9, 3, 0.1, [(9, 1 / 9), (3, 1 / 3), (1, 1.0)]),
        (9, 3, 0.2, [(9, 1 / 3), (3, 1.0)]),  # a ninth would be less than a fifth
        (8, 3, 0.1, [(8, 1 / 3), (2, 1.0)]),  # 8 candidates do not fill three rounds
        (16, 2, 0.125, [(16, 1 / 8), (8, 1 / 4), (4, 1 / 2), (2, 1.0)]),
        (5, 2, 1.0, [(5, 1.0)]),
        (1, 3, 0.1, [(1, 1.0)]),
    ],
)
def test_rounds_of_halving(num_trials, factor, least, expected):
    rules = SearchRules(num_trials=num_trials, halving_factor=factor, min_epochs_fraction=least)
    planned = plan_rounds(rules, num_trials)
    assert [size for size, _ in planned] == [size for size, _ in expected]
    assert [share for _, share in planned] == pytest.approx([share for _, share in expected])
    assert plan_rounds(replace(rules, num_trials=100), num_trials) == planned  # a space that has no more


def test_halving_keeps_the_best_and_drops_failures():
    rules = SearchRules(method="halving", num_trials=9)
    values = {0: 0.1, 1: 0.9, 2: 0.9, 3: math.nan, 4: 0.2, 5: 0.95, 6: 0.0, 7: 0.3, 8: 0.4}

    def run(candidates):
        rung = candidates[0].rung
        asked.append([each.number for each in candidates])
        return [
            score(each.number, values[each.number], rung=rung)
            if each.number != 5
            else score(5, rung=rung, error="OOM")
            for each in candidates
        ]

    asked = []
    found = run_rounds(PROPOSERS["halving"](rules, SPACE), run)
    assert asked == [list(range(9)), [1, 2, 8], [1]]
    assert [each.candidate.rung for each in found] == [0] * 9 + [1] * 3 + [2]
    assert choose_best(found) is found[-1]


def test_a_tie_goes_to_the_earliest_and_direction_follows_the_metric():
    scores = [score(0, 0.5), score(1, 0.7), score(2, 0.7), score(3, error="failed"), score(4, math.nan)]
    assert [each.candidate.number for each in rank(scores)] == [1, 2, 0]
    losses = [score(0, 0.5, metric="loss"), score(1, 0.7, metric="loss")]
    assert choose_best(losses).candidate.number == 0


def test_an_earlier_round_decides_if_the_last_one_failed():
    scores = [score(0, 0.5), score(1, 0.7), score(1, rung=1, error="OOM")]
    assert choose_best(scores) is scores[1]
    with pytest.raises(ValueError, match=r"all 2 trials failed; the first one: OOM; .*--retry-failed"):
        choose_best([score(0, error="OOM"), score(1, error="lost")])


def test_a_score_of_folds_is_mean_and_deviation():
    found = score(0, 0.7, 0.8, 0.9)
    assert (found.value, found.spread) == pytest.approx((0.8, 0.1))
    assert score(0, 0.7).spread == 0


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"space": {"num_ranks": (1, 2)}}, "space names num_ranks, which says where"),
        ({"space": {"seed": ()}}, r"space.seed must have different values, got \[\]"),
        ({"space": {"micro_batch": (1, 2)}}, "space names micro_batch, which says where and how"),
        ({"space": {"seed": (1, 1)}}, r"different values, got \[1, 1\]"),
        ({"space": {"seed": (1, 1.0)}}, r"different values, got \[1, 1.0\]"),
        ({"method": "grid", "space": {"seed": Range(low=0, high=9)}}, "must be a list of values for method"),
        ({"num_trials": 0}, "num_trials must be at least 1, got 0"),
        ({"num_folds": 1}, "num_folds must be from 2 to 50, or null, got 1"),
        ({"metric": "f1"}, "metric must be null or one of accuracy, macro_f1.*, got f1"),
        ({"halving_factor": 1}, "halving_factor must be at least 2, got 1"),
    ],
)
def test_rules_refuse(rules, message):
    with pytest.raises(ValueError, match=message):
        SearchRules(**rules)


def test_true_and_one_are_two_values():
    assert SearchRules(space={"model.config.x": (1, True, "1", None)}).space


def test_no_key_of_how_a_training_runs_is_part_of_a_space():
    for field in fields(Execution):
        with pytest.raises(ValueError, match=f"space names {field.name}, which says where and how"):
            SearchRules(space={field.name: (1, 2)})


def test_a_grid_is_the_same_search_whatever_num_trials_says():
    identities = {
        method: [SearchRules(method=method, num_trials=number).identity() for number in (4, 5)]
        for method in ("grid", "random", "halving", "optuna")
    }
    assert [each[0] == each[1] for each in identities.values()] == [True, False, False, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": 2, "high": 1}, "low must be below high, got 2 and 1"),
        ({"low": 0, "high": 1, "log": True}, "low must be above 0 where log is true, got 0; set log: false"),
        ({"low": 0.5, "high": 2, "integer": True}, "must be whole numbers where integer is true, got 0.5"),
    ],
)
def test_ranges_refuse(given, message):
    with pytest.raises(ValueError, match=message):
        Range(**given)
