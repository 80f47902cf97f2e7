"""What the dataset stage takes for up to date: plans on real Delta tables, written without a JVM."""

import pytest

from jobs.dataset import Config, plan
from jobs.shell.settings import load
from pipelines.dataset import layout
from pipelines.dataset.packing import rules
from tests.shell.test_plan import write


@pytest.fixture
def make_config(tmp_path):
    write(str(tmp_path / "documents"), "documents")

    def make(**changes):
        given = [f"dataset.{key}={value}" for key, value in changes.items()]
        return load(overrides=[f"root={tmp_path}", *given]).section("dataset", Config)

    return make


def read_settings(config):
    return plan(config).inputs.settings


def test_the_size_of_groups_counts_also_if_it_is_a_default(make_config, monkeypatch):
    default, given = (
        make_config(**{"packing.method": "concatenate", **changes})
        for changes in ({}, {"packing.group_bytes": rules.GROUP_BYTES})
    )
    first = read_settings(default)
    assert read_settings(given) == first
    with monkeypatch.context() as patched:
        patched.setattr(rules, "GROUP_BYTES", rules.GROUP_BYTES // 2)
        assert read_settings(given) == first != read_settings(default)
    monkeypatch.setattr(layout, "LAYOUT_REVISION", layout.LAYOUT_REVISION + 1)
    assert read_settings(given) != first


def test_a_limit_that_was_lowered_is_told_by_the_plan(make_config, tmp_path):
    made_from = plan(make_config()).fingerprint
    splits = {"train": {"sequences": 19, "tokens": 190, "cut_tokens": 0, "units": 19}}
    left_out = {"documents": 1, "first": [{"doc_id": "d1", "reason": "no answer"}]}
    facts = {
        "task": "chat",
        "splits": splits,
        "left_out": left_out,
        "sequence_length": 16,
        "tokenizer": "lost",
    }
    write(make_config().sequences, made_from, **facts)
    accepted = plan(make_config(max_left_out_fraction=0.05))
    assert accepted.why.startswith("tokenizer lost is not in")
    with pytest.raises(ValueError, match=r"dataset\.max_left_out_fraction = 0\.01, and version 0 of"):
        plan(make_config(max_left_out_fraction=0.01))
