"""Plans on real Delta tables, written without a JVM, and the course of a stage."""

import json

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from jobs.shell.plan import Plan, plan_tables, require_table, require_unmodified_table
from jobs.shell.settings import Section, load
from jobs.shell.stage import run_stage
from pipelines.pin import transaction_name, version_of


def write(path, made_from=None, **facts):
    """One commit that a stage wrote from `made_from`, or, without it, that somebody else wrote."""
    record = {"table": "rows", "digest": "d", "num_rows": 1, "fingerprint": made_from, "facts": facts}
    metadata = {"userMetadata": json.dumps({"distributary": record})} if made_from else {}
    version = 1 + version_of(path)
    named = [Transaction(transaction_name(made_from), version)] if made_from else []
    commit = CommitProperties(custom_metadata=metadata, app_transactions=named)
    write_deltalake(path, pa.table({"a": [1]}), mode="append", commit_properties=commit)


def display(pin):
    return {"facts": str(pin.facts)}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "documents")


def test_a_missing_table_must_be_written(path):
    planned = plan_tables("x", [path], display)
    assert (planned.up_to_date, planned.why, planned.facts) == (False, "documents: no table yet", {})


def test_a_table_from_the_same_inputs_is_up_to_date(path):
    write(path, "x", kept=3)
    planned = plan_tables("x", [path], display, inputs="rows read")
    assert planned.up_to_date
    assert planned.why == "documents version 0 was made from the same inputs"
    assert (planned.facts, planned.inputs) == ({"facts": "{'kept': 3}"}, "rows read")


def test_a_table_from_other_inputs_must_be_written(path):
    write(path, "old")
    planned = plan_tables("x", [path], display, inputs="rows read")
    assert not planned.up_to_date
    assert planned.why == "documents: files, configuration or inputs changed since version 0"
    assert planned.inputs == "rows read"


def test_every_output_must_be_up_to_date(path, tmp_path):
    write(path, "x")
    planned = plan_tables("x", [path, str(tmp_path / "quarantine")], display)
    assert (planned.up_to_date, planned.why) == (False, "quarantine: no table yet")


def test_any_commit_counts_for_appended_rows(path):
    write(path, "x")
    write(path, "newer")
    assert not plan_tables("x", [path], display).up_to_date
    assert plan_tables("x", [path], display, appended=True).up_to_date
    assert plan_tables("y", [path], display, appended=True).why == "documents: no rows from these inputs yet"


def test_a_foreign_change_is_not_overwritten(path):
    write(path, "x")
    write(path)
    with pytest.raises(ValueError, match=r"outside of Distributary \(version 1, WRITE\).*delete the table"):
        plan_tables("x", [path], display)


def test_a_foreign_change_counts_beside_an_outdated_output(path, tmp_path):
    quarantine = str(tmp_path / "quarantine")
    write(quarantine, "old")
    write(path, "old")
    write(path)
    with pytest.raises(ValueError, match=r"documents was changed outside of Distributary"):
        plan_tables("new", [quarantine, path], display)


def test_a_gap_beside_the_table_makes_it_outdated(path):
    write(path, "x")
    planned = plan_tables("x", [path], display, find_gap=lambda pin: f"no file for version {pin.version}")
    assert (planned.up_to_date, planned.why) == (False, "no file for version 0")


def test_appended_rows_are_added_after_a_foreign_change(path):
    write(path, "x")
    DeltaTable(path).delete("a = 1")
    planned = plan_tables("x", [path], display, appended=True)
    assert not planned.up_to_date
    assert (
        planned.why == "documents: changed outside of Distributary (version 1, DELETE); adds what is missing"
    )


def test_a_required_table_names_the_stage_that_writes_it(path):
    with pytest.raises(FileNotFoundError, match=r"no documents table at .*; run first: distributary corpus"):
        require_table(path, "documents", "corpus")
    write(path, "x")
    assert require_unmodified_table(path, "documents", "corpus").fingerprint == "x"
    write(path)
    assert require_table(path, "documents", "corpus").fingerprint == ""
    with pytest.raises(
        ValueError, match=r"\(version 1, WRITE\), but this stage needs documents as they were"
    ):
        require_unmodified_table(path, "documents", "corpus")


@pytest.fixture
def section():
    class Rules(Section):
        rules: dict

    return load().section("corpus", type("Open", (Rules,), {"model_config": {"extra": "ignore"}}))


def test_an_up_to_date_stage_writes_nothing(section, capsys):
    planned = Plan(fingerprint="x", up_to_date=True, why="same inputs", facts={"kept": "3"})
    outcome = run_stage(
        "corpus", section, lambda config: planned, lambda config, work: pytest.fail("written")
    )
    assert (outcome.ran, outcome.why, outcome.facts) == (False, "same inputs", {"kept": "3"})
    assert capsys.readouterr().out == ""


def test_a_stage_with_work_gets_the_inputs_of_its_plan(section, spark):
    planned = Plan(fingerprint="x", up_to_date=False, why="no table yet", inputs="version 3")
    got = []

    def write_rows(config, work):
        got.append((config, work.fingerprint, work.inputs, work.spark.range(2).count()))
        return {"rows": "2"}

    outcome = run_stage("corpus", section, lambda config: planned, write_rows)
    assert got == [(section, "x", "version 3", 2)]
    assert (outcome.ran, outcome.why, outcome.facts) == (True, "no table yet", {"rows": "2"})
