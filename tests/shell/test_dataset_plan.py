"""What the dataset stage takes for up to date: plans on real Delta tables, written without a JVM."""

import pytest

from jobs.dataset import Config, plan
from jobs.shell.plan import look_ahead
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


def test_the_size_and_the_rules_of_groups_count(make_config, monkeypatch):
    default, given, other = (
        make_config(**{"packing.method": "concatenate", **changes})
        for changes in (
            {},
            {"packing.group_bytes": rules.GROUP_BYTES},
            {"packing.group_bytes": rules.GROUP_BYTES // 2},
        )
    )
    first = read_settings(default)
    assert read_settings(given) == first != read_settings(other)
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


def test_a_dry_run_says_why_all_groups_are_built(make_config):
    def foresee(**changes):
        return look_ahead(plan(make_config(**changes))).notes["groups"]

    assert foresee() == "all will be built, because there are no sequences yet"
    planned = plan(make_config())
    documents = planned.inputs.documents
    facts = {"settings": planned.inputs.settings, "documents": documents.identity(), "tokenizer": "lost"}
    write(make_config().sequences, "before", **facts)
    assert foresee() == "all will be built, because the tokenizer of version 0 is gone"
    assert foresee(**{"tokenizer.keep_trained": "false"}).endswith(
        "(dataset.tokenizer.keep_trained is false)"
    )
    assert "packing are not those of version 0" in foresee(**{"packing.sequence_length": 99})
    write(make_config().sequences, "again", **facts | {"documents": documents.identity() | {"table_id": "x"}})
    assert "version 1 was built from another documents table" in foresee()
    assert plan(make_config()).notes == {}  # a stage that runs does not count before it builds
