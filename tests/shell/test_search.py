"""From a configuration to candidates and back, without a table."""

import pytest
import yaml

from jobs.finetune import Config
from jobs.shell.search import change_settings, format_overrides, format_yaml
from jobs.shell.search_stage import explain_repetition
from jobs.shell.settings import load
from pipelines.finetune.search.score import Candidate, Score
from pipelines.registry.runs.search import describe_score

BEST = {
    "model.config.model_type": "bert",
    "model.frozen": None,
    "num_epochs": 2.5,
    "optimization.betas": None,
    "optimization.learning_rate": 1.234e-05,
    "global_batch": 16,
    "activation_checkpointing": True,
}


def test_a_candidate_changes_its_keys_alone():
    settings = load()
    changed = change_settings(settings, {"optimization.learning_rate": 0.25, "global_batch": 8})
    assert (changed.optimization.learning_rate, changed.global_batch) == (0.25, 8)
    before = settings.section("finetune", Config)
    assert before.optimization.learning_rate == 0.0003
    assert (
        changed.model_copy(update={"optimization": before.optimization, "global_batch": before.global_batch})
        == before
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimisation.learning_rate": 1},
            "names optimisation.learning_rate, .* did you mean optimization.lea",
        ),
        ({"optimization.learning_rat": 1}, "no key below finetune; did you mean optimization.learning_rate"),
        ({"num_epochs.x": 1}, "names num_epochs.x, which is no key below finetune"),
        ({"global_batch": 8.5}, r"finetune.global_batch should be a valid integer.*got 8.5"),
        ({"optimization.learning_rate": -1.0}, "learning_rate must be greater than 0, got -1.0"),
    ],
)
def test_what_finetune_does_not_have_or_allow_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        change_settings(load(), changes)


def test_the_best_settings_mean_the_same_as_overrides_and_as_a_file(tmp_path):
    best = {key: value for key, value in BEST.items() if value is not None}
    (tmp_path / "best.yaml").write_text(format_yaml(best))
    by_file = load(file=tmp_path / "best.yaml").section("finetune", Config)
    by_words = load(overrides=format_overrides(best)).section("finetune", Config)
    by_search = change_settings(load(), best)
    assert by_search.optimization.learning_rate == 1.234e-05
    assert by_search.activation_checkpointing is True
    ignore = {"effective": ""}
    assert by_file.model_copy(update=ignore) == by_words.model_copy(update=ignore)
    assert by_words.model_copy(update=ignore) == by_search.model_copy(update=ignore)
    assert yaml.safe_load(format_yaml({"a.b": 1, "a.c": 2})) == {"finetune": {"a": {"b": 1, "c": 2}}}


def test_a_space_is_read_from_a_file_and_from_the_command_line(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "finetune: {search: {space: {seed: [1, 2], num_epochs: {low: 1, high: 3}}}}"
    )
    words = ["finetune.search.space={num_epochs: null, global_batch: [8, 16]}"]
    rules = load(file=tmp_path / "mine.yaml", overrides=words).section("finetune", Config).search
    assert rules.list_space(0.1) == {"global_batch": (8, 16), "seed": (1, 2)}
    one = load(overrides=["finetune.search.space={optimization.learning_rate: {low: 1e-5, high: 0.1}}"])
    space = one.section("finetune", Config).search.list_space(0.1)
    assert space["optimization.learning_rate"].low == 1e-5


def test_text_that_looks_like_a_number_stays_text():
    words = format_overrides({"model.config.name": "3", "optimization.schedule": "linear", "seed": 3})
    assert words[1:] == ["finetune.optimization.schedule=linear", "finetune.seed=3"]
    assert load(overrides=words).tree["finetune"]["model"]["config"]["name"] == "3"


@pytest.mark.parametrize("text", ["@base", "*", "%x", "`x`", "[1", "&a", "!x", "{", "'", "a: b", ""])
def test_text_that_means_something_else_in_yaml_stays_text(text):
    words = format_overrides({"model.config.name": text})
    assert load(overrides=words).tree["finetune"]["model"]["config"]["name"] == text


def test_a_search_with_lost_trials_runs_again_and_one_with_failed_trials_where_it_is_asked():
    done, failed, lost = (
        describe_score(Score(candidate=Candidate(number=0, settings={}), values=(0.5,), **end))
        for end in ({}, {"error": "diverged"}, {"error": "no process", "is_lost": True})
    )
    assert explain_repetition({"trials": [done]}, retry_failed=True) is None
    assert explain_repetition({"trials": [done, failed]}, retry_failed=False) is None
    assert "trials that failed" in explain_repetition({"trials": [done, failed]}, retry_failed=True)
    assert "process was lost" in explain_repetition({"trials": [done, failed, lost]}, retry_failed=False)


def test_faults_of_a_space_name_the_key():
    with pytest.raises(ValueError, match=r"finetune.search.* space names folder, which says where"):
        load(overrides=["finetune.search.space={folder: [a, b]}"]).section("finetune", Config)
    with pytest.raises(ValueError, match=r"finetune.search.space.seed.*low must be below high, got 2 and 1"):
        load(overrides=["finetune.search.space={seed: {low: 2, high: 1}}"]).section("finetune", Config)
