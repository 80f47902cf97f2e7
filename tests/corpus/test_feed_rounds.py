"""What a run lands of a table with a change feed: decided on plain values."""

import json

import pytest

from pipelines.corpus.feed.fields import describe_columns, require_fields
from pipelines.corpus.feed.rounds import (
    Changes,
    Landed,
    Policy,
    Round,
    TableNow,
    decode_landed,
    plan_round,
    settle_changes,
    settle_columns,
    settle_lost,
    snapshot_of,
)
from pipelines.corpus.readers.delta_changes import VERSION, Options
from tests.corpus.reading import make_source

COLUMNS = {"id": "integer", "text": "string"}
NOW = TableNow("id", 9, has_feed=True, columns=COLUMNS)
RANGE = Round(first=5, last=9, is_snapshot=False)
SNAPSHOT = Round(first=9, last=9, is_snapshot=True)


def policy(**knobs) -> Policy:
    return Policy(**{"starting_version": None, "changed_files": "rebuild", "lost_versions": "stop", **knobs})


def landed(**knobs) -> Landed:
    return Landed(**{"table_id": "id", "version": 4, "starting_version": None, "columns": COLUMNS, **knobs})


def test_the_first_round_is_the_table_and_later_ones_are_its_new_versions():
    assert plan_round(None, NOW, policy()) == SNAPSHOT
    assert plan_round(landed(), NOW, policy()) == RANGE
    assert plan_round(landed(version=9), NOW, policy()) is None


def test_rows_before_the_starting_version_are_left_out():
    assert plan_round(None, NOW, policy(starting_version=5)) == RANGE
    assert plan_round(None, NOW, policy(starting_version=9)) == Round(first=9, last=9, is_snapshot=False)
    with pytest.raises(ValueError, match=r"starting_version is 10, but its newest version is 9"):
        plan_round(None, NOW, policy(starting_version=10))


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"table_id": "old"}, NOW, r"its id is id and was old: .*another name and another path.*land: false"),
        ({"version": 12}, NOW, r"newest version is 9, but 12 was landed.*another path"),
        ({"starting_version": 3}, NOW, r"starting_version is None, but rows were landed with 3; set it back"),
        ({}, NOW._replace(has_feed=False), r"no change feed: ALTER TABLE .*enableChangeDataFeed = true"),
    ],
)
def test_a_table_that_does_not_go_on_is_refused(before, now, message):
    with pytest.raises(ValueError, match=message):
        plan_round(landed(**before), now, policy())


def test_inserted_rows_alone_are_added():
    after = settle_changes(RANGE, Changes(3, 0, 0), landed(), NOW, policy(changed_files="stop"))
    assert after == landed(version=9)
    assert decode_landed(after.encode()) == after


@pytest.mark.parametrize("changes", [Changes(3, 1, 0), Changes(0, 0, 2), Changes(9, 4, 4)])
def test_updated_and_deleted_rows_follow_changed_files(changes):
    rebuilt = settle_changes(RANGE, changes, landed(), NOW, policy())
    assert isinstance(rebuilt, Round)
    assert (rebuilt.is_snapshot, rebuilt.last) == (True, 9)
    why = f"versions 5 to 9 updated {changes.updated} rows and deleted {changes.deleted}"
    assert rebuilt.why == why
    kept = settle_changes(RANGE, changes, landed(num_kept=1), NOW, policy(changed_files="keep"))
    assert kept == landed(version=9, num_kept=1 + changes.updated + changes.deleted)
    with pytest.raises(ValueError, match=rf"{why}\. .*changed_files=rebuild\. .*changed_files=keep"):
        settle_changes(RANGE, changes, landed(), NOW, policy(changed_files="stop"))


def test_kept_documents_are_given_up_once_that_is_asked_for():
    """Also without a new version."""
    before = landed(version=9, num_kept=1200)
    found = plan_round(before, NOW, policy())
    assert found is not None
    assert found.is_snapshot
    assert "changed_files was keep when 1,200 rows were updated or deleted" in found.why
    assert plan_round(before, NOW, policy(changed_files="keep")) is None


def test_a_snapshot_does_not_bring_rows_before_the_starting_version():
    with pytest.raises(
        ValueError, match=r"deleted 1, so the table must be read anew, but rows of before .*=2"
    ):
        settle_changes(RANGE, Changes(0, 0, 1), landed(), NOW, policy(starting_version=2))


def test_lost_versions_stop_or_are_replaced_by_a_snapshot():
    with pytest.raises(
        ValueError, match=r"versions 5 to 9 cannot be read \(gone\).*lost_versions=snapshot\."
    ):
        settle_lost(RANGE, "gone", landed(), NOW, policy())
    found = settle_lost(RANGE, "gone", landed(), NOW, policy(lost_versions="snapshot"))
    assert (found.is_snapshot, found.last) == (True, 9)
    assert "versions 5 to 9 cannot be read (gone)" in found.why


@pytest.mark.parametrize(
    ("knobs", "remedy"),
    [
        ({"changed_files": "keep"}, "and corpus.changed_files=rebuild, because the rows"),
        ({"changed_files": "stop"}, "and corpus.changed_files=rebuild, because the rows"),
        ({"starting_version": 2}, "and no options.starting_version and another path"),
    ],
)
def test_lost_versions_name_what_else_forbids_a_snapshot(knobs, remedy):
    with pytest.raises(ValueError, match=f"lost_versions=snapshot, {remedy}"):
        settle_lost(RANGE, "gone", landed(), NOW, policy(lost_versions="snapshot", **knobs))


@pytest.mark.parametrize("lost_versions", ["stop", "snapshot"])
def test_a_lost_first_round_asks_for_another_starting_version(lost_versions):
    chosen = policy(starting_version=5, lost_versions=lost_versions)
    with pytest.raises(
        ValueError, match=r"\(gone\).*\. Set options\.starting_version to the first .*, or remove it to"
    ):
        settle_lost(RANGE, "gone", None, NOW, chosen)


def test_other_columns_take_a_snapshot():
    assert "dropped, renamed or retyped columns" in settle_columns(RANGE, NOW, policy()).why
    with pytest.raises(
        ValueError, match=r"changed_files=keep forbids that; set corpus\.changed_files=rebuild"
    ):
        settle_columns(RANGE, NOW, policy(changed_files="keep"))


@pytest.mark.parametrize(
    ("columns", "is_snapshot"),
    [
        ({**COLUMNS, "added": "string"}, False),
        ({"id": "integer", "body": "string"}, True),
        ({**COLUMNS, "text": "string col-1"}, True),
        ({**COLUMNS, "id": "long"}, True),
    ],
)
def test_columns_of_before_must_be_those_of_now(columns, is_snapshot):
    """Delta does not compare the first version of a feed with the one before it."""
    now = NOW._replace(columns=columns)
    found = plan_round(landed(), now, policy())
    assert found is not None
    assert found.is_snapshot == is_snapshot
    assert (found.why == "versions 5 to 9 dropped, renamed or retyped columns") == is_snapshot
    unknown = decode_landed({"table_id": "id", "version": 4, "starting_version": None, "num_kept": 0})
    assert plan_round(unknown, now, policy()) == RANGE
    assert settle_changes(RANGE, Changes(1, 0, 0), landed(), now, policy()) == landed(
        version=9, columns=columns
    )
    assert snapshot_of(now) == landed(version=9, columns=columns)


def test_columns_have_their_types_and_their_names_in_the_files():
    def column(name, kind, **metadata):
        return {"name": name, "type": kind, "nullable": True, "metadata": metadata}

    physical = {"delta.columnMapping.id": 2, "delta.columnMapping.physicalName": "col-1"}
    inner = {"type": "struct", "fields": [column("用户", "string", **physical)]}
    turns = {"type": "array", "elementType": inner, "containsNull": True}
    prices = {"type": "map", "keyType": "string", "valueType": "decimal(9,2)", "valueContainsNull": True}
    fields = [column("text", "string", comment="x"), column("turns", turns), column("prices", prices)]
    assert describe_columns(json.dumps({"type": "struct", "fields": fields})) == {
        "text": "string",
        "turns": "array",
        "turns.elementType": "struct",
        "turns.elementType.用户": "string col-1",
        "prices": "map",
        "prices.keyType": "string",
        "prices.valueType": "decimal(9,2)",
    }


SCHEMA = '{"fields": [{"name": "正文", "type": "string"}, {"name": "raw", "type": "binary"}]}'


def test_mapped_fields_are_columns_with_text():
    def check(name):
        fields = {"text": name}
        source = make_source(format="delta_changes", options={"table": "t"}, fields=fields)
        require_fields(source, SCHEMA)

    check("正文")
    check(VERSION)
    with pytest.raises(
        ValueError, match=r"no column 'body'; correct the fields.*: 正文, raw, delta\.version"
    ):
        check("body")
    with pytest.raises(ValueError, match=r"column 'raw' is binary, not text; cast it"):
        check("raw")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "options.table must be the path or the name of a Delta table, got ''"),
        ({"table": "t", "starting_version": -1}, "options.starting_version must be null or a number from 0"),
        ({"table": "t", "starting_version": True}, "starting_version must be null or a number.*got True"),
        ({"table": "t", "land": "no"}, "options.land must be true or false, got 'no'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_source(format="delta_changes", options=options, fields={"text": "t"})
    assert Options(table="lake.tickets").place == "lake.tickets"
    assert Options(table="a/b").place.startswith("/")
