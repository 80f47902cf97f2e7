"""Change feeds of real Delta tables, landed by Spark: each version once, whatever happens to the table."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipelines import retention
from pipelines.corpus.feed import look, write
from pipelines.corpus.listing import NoFilesError, list_files
from pipelines.pin import pin
from pipelines.tables import LANDED_ROWS
from tests.conftest import TEST_CONF
from tests.corpus.feeds import insert, land_now, list_texts, make_source, read_landed, sql


@pytest.fixture
def table(spark, tmp_path):
    """Two versions: one row, and one row more."""
    insert(spark, tmp_path / "table", (1, "one"))
    insert(spark, tmp_path / "table", (2, "二 two"))
    return tmp_path / "table"


def test_each_version_is_landed_once(spark, table, tmp_path):
    source = make_source(tmp_path, metadata={"version": "delta.version"})
    with pytest.raises(NoFilesError, match="no row was landed there yet"):
        list_files(source)
    assert land_now(source, lambda: spark) == ["landing the rows of version 1"]
    assert land_now(source) == []
    first = list_files(source)
    insert(spark, table, (3, "three"))
    insert(spark, table, (4, "四"))
    assert land_now(source, lambda: spark) == ["landing versions 2 to 3"]
    assert land_now(source) == []
    rows = [("1", "one", "1"), ("2", "二 two", "1"), ("3", "three", "2"), ("4", "四", "3")]
    assert [(row["key"], row["text"], row["version"]) for row in read_landed(source)] == rows
    assert set(first) < set(list_files(source)), "landed files never change"


def test_a_run_without_a_new_version_loads_no_spark(spark, table, tmp_path):
    land_now(source := make_source(tmp_path), lambda: spark)
    known = {name: getattr(source, name) for name in ("name", "path", "format", "fields", "options")}
    program = (
        "import sys; from pipelines.corpus.feed.land import land_tables;"
        "from pipelines.corpus.feed.rounds import ChangeFeed; from pipelines.corpus.source import Source;"
        f"land_tables([Source(**{known!r})], ChangeFeed(), 'rebuild', None, print);"
        "print(sorted({'deltalake', 'pyspark', 'torch', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("['deltalake']", 0), done.stderr


def test_versions_without_rows_start_no_spark_until_they_are_many(spark, table, tmp_path, monkeypatch):
    source = make_source(tmp_path)
    land_now(source, lambda: spark)
    before = list_files(source)
    sql(spark, table, "OPTIMIZE {table}")
    sql(spark, table, "ALTER TABLE {table} SET TBLPROPERTIES (a = 'b')")
    assert DeltaTable(str(table)).version() == 3
    assert land_now(source) == []
    with monkeypatch.context() as patched:
        patched.setattr(look, "FEW_COMMITS", 1)
        assert land_now(source, lambda: spark) == ["landing versions 2 to 3"]
    assert land_now(source) == []
    assert list_files(source) == before
    assert pin(source.path).facts["feed"]["version"] == 3


def age(table, version, seconds):
    """The commits up to a version are so much older."""
    for each in range(version + 1):
        commit = table / "_delta_log" / f"{each:020}.json"
        modified = commit.stat().st_mtime
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] -= 1000 * seconds
        commit.write_text("\n".join(map(json.dumps, actions)))
        os.utime(commit, (modified - seconds, modified - seconds))  # the time that DESCRIBE HISTORY has
        commit.with_name(f".{commit.name}.crc").unlink(missing_ok=True)


@pytest.mark.parametrize("place", ["path", "catalog"])
def test_versions_without_rows_are_landed_a_day_later(spark, table, tmp_path, place):
    """Else the log of an idle table would lose them one day, and with them what they were."""
    source = make_source(tmp_path, **({"table": "idle.tickets"} if place == "catalog" else {}))
    spark.sql("CREATE DATABASE idle")
    try:
        spark.sql(f"CREATE TABLE idle.tickets USING delta LOCATION '{table}'")
        land_now(source, lambda: spark)
        sql(spark, table, "ALTER TABLE {table} SET TBLPROPERTIES (a = 'b')")
        sql(spark, table, "ALTER TABLE {table} SET TBLPROPERTIES (a = 'c')")
        age(table, 2, seconds=look.MAX_AGE_SECONDS - 3600)
        assert land_now(source) == []
        age(table, 2, seconds=3600)
        assert land_now(source, lambda: spark) == ["landing versions 2 to 3"]
        assert land_now(source) == []
    finally:
        spark.sql("DROP DATABASE idle CASCADE")
    assert list_texts(source) == ["one", "二 two"]


@pytest.mark.parametrize("vectors", ["false", "true"])
def test_updated_and_deleted_rows_are_those_of_the_table(spark, tmp_path, vectors):
    table, source = tmp_path / "table", make_source(tmp_path)
    rows = [(number, f"text {number}") for number in range(9)]
    insert(spark, table, *rows, **{"delta.enableDeletionVectors": vectors})
    land_now(source, lambda: spark)
    sql(spark, table, "UPDATE {table} SET text = '新 new' WHERE id = 1")
    sql(spark, table, "DELETE FROM {table} WHERE id = 2")
    insert(spark, table, (9, "text 9"))
    landing, again = land_now(source, lambda: spark)
    assert landing == "landing versions 1 to 3"
    why = "versions 1 to 3 updated 1 rows and deleted 1"
    assert again == f"landing the rows of version 3; the table is read anew, because {why}"
    expected = ["text 0", "新 new", *(f"text {number}" for number in range(3, 10))]
    assert list_texts(source) == expected
    assert land_now(source) == []
    insert(spark, table, (91, "later"))
    land_now(source, lambda: spark)
    assert list_texts(source) == [*expected, "later"]


def test_what_a_snapshot_replaced_is_deleted_by_a_landing_a_week_later(spark, table, tmp_path, monkeypatch):
    """Deleted rows may be those of a person who asked for it, and no other snapshot may come."""
    source = make_source(tmp_path)
    land_now(source, lambda: spark)
    first = list_files(source)
    sql(spark, table, "DELETE FROM {table} WHERE id = 1")
    land_now(source, lambda: spark)
    assert all(Path(file.path).exists() for file in first), "a reader may still need them"
    monkeypatch.setattr(write, "delete_unpinned", partial(retention.delete_unpinned, min_age_hours=0))
    insert(spark, table, (3, "three"))
    assert land_now(source, lambda: spark) == ["landing version 3"]
    assert not any(Path(file.path).exists() for file in first)
    assert list_texts(source) == ["二 two", "three"]


def test_rows_are_landed_although_replaced_ones_cannot_be_deleted(spark, table, tmp_path, monkeypatch):
    def refuse(path, keep):
        raise PermissionError("403 Forbidden\nlong answer")

    monkeypatch.setattr(write, "delete_unpinned", refuse)
    _, warning = land_now(source := make_source(tmp_path), lambda: spark)
    assert warning.endswith("could not be deleted, the next landing tries again: 403 Forbidden")
    assert land_now(source) == []
    assert list_texts(source) == ["one", "二 two"]


def test_rows_that_were_deleted_can_stay(spark, table, tmp_path):
    source = make_source(tmp_path)
    land_now(source, lambda: spark)
    sql(spark, table, "DELETE FROM {table} WHERE id = 1")
    sql(spark, table, "UPDATE {table} SET text = 'changed' WHERE id = 2")
    insert(spark, table, (3, "three"))
    with pytest.raises(
        ValueError, match=r"source 's': table .*: versions 2 to 4 updated 1 rows and deleted 1"
    ):
        land_now(source, lambda: spark, changed_files="stop")
    notes = land_now(source, lambda: spark, changed_files="keep")
    assert (
        notes[1] == "1 rows were updated and 1 deleted; their documents are kept (corpus.changed_files=keep)"
    )
    assert list_texts(source) == ["one", "二 two", "three"]
    assert land_now(source, changed_files="keep") == []
    assert "corpus.changed_files was keep when 2 rows" in land_now(source, lambda: spark)[0]
    assert list_texts(source) == ["changed", "three"]


def test_a_starting_version_leaves_out_earlier_rows(spark, table, tmp_path):
    source = make_source(tmp_path, starting_version=1)
    assert land_now(source, lambda: spark) == ["landing version 1"]
    insert(spark, table, (3, "three"))
    land_now(source, lambda: spark)
    assert list_texts(source) == ["二 two", "three"]
    sql(spark, table, "DELETE FROM {table} WHERE id = 3")
    with pytest.raises(ValueError, match=r"rows of before options\.starting_version=1 cannot be told"):
        land_now(source, lambda: spark)
    assert land_now(source, lambda: spark, changed_files="keep")
    assert list_texts(source) == ["二 two", "three"]


def cut_log(table, spark):
    """Version 2 leaves the log, as after delta.logRetentionDuration."""
    DeltaTable(str(table)).create_checkpoint()
    insert(spark, table, (4, "four"))
    for version in range(3):
        (table / "_delta_log" / f"{version:020}.json").unlink()


def remove_changes(table, spark):
    """As VACUUM after delta.deletedFileRetentionDuration."""
    sql(spark, table, "UPDATE {table} SET text = 'three' WHERE id = 3")
    shutil.rmtree(table / "_change_data")


def stop_recording(table, spark):
    sql(spark, table, "ALTER TABLE {table} SET TBLPROPERTIES (delta.enableChangeDataFeed = false)")
    insert(spark, table, (4, "four"))
    sql(spark, table, "ALTER TABLE {table} SET TBLPROPERTIES (delta.enableChangeDataFeed = true)")


@pytest.mark.parametrize(
    ("lose", "reason", "texts"),
    [
        (cut_log, "the log has no version 2 any more", ["one", "二 two", "three", "four"]),
        (remove_changes, "files are gone", ["one", "二 two", "three"]),
        (stop_recording, "changes were not recorded", ["one", "二 two", "three", "four"]),
    ],
)
def test_lost_versions_stop_the_stage_or_take_a_snapshot(spark, table, tmp_path, lose, reason, texts):
    source = make_source(tmp_path)
    land_now(source, lambda: spark)
    insert(spark, table, (3, "three"))
    lose(table, spark)
    lost = rf"versions? 2.* cannot be read \({reason}.*corpus\.change_feed\.lost_versions=snapshot"
    with pytest.raises(ValueError, match=lost):
        land_now(source, lambda: spark)
    assert list_texts(source) == ["one", "二 two"]
    assert reason in land_now(source, lambda: spark, lost_versions="snapshot")[-1]
    assert list_texts(source) == texts
    assert land_now(source) == []


def test_another_table_is_not_taken_for_the_one_before(spark, table, tmp_path):
    source = make_source(tmp_path)
    land_now(source, lambda: spark)
    shutil.rmtree(table)
    with pytest.raises(NoFilesError, match=r"source 's': table .*: there is no Delta table; create it"):
        land_now(source)
    for number in range(3):
        insert(spark, table, (number, "other"))
    with pytest.raises(ValueError, match=r"deleted and created again.*another path.*options\.land: false"):
        land_now(source)
    kept = make_source(tmp_path, land=False)
    assert land_now(kept) == []
    assert list_texts(kept) == ["one", "二 two"]
    with pytest.raises(ValueError, match=r"it is also the path of the source; path is a folder of its own"):
        land_now(make_source(tmp_path, path="table"))
    with pytest.raises(ValueError, match="is a table that another program or stage has written"):
        land_now(make_source(tmp_path, path="table", table=source.path))


def test_a_table_may_be_named_in_the_catalog(spark, table, tmp_path):
    source = make_source(tmp_path, table="feeds.tickets")
    spark.sql("CREATE DATABASE feeds")
    try:
        with pytest.raises(NoFilesError, match=r"table feeds\.tickets: there is no Delta table"):
            land_now(source)
        spark.sql(f"CREATE TABLE feeds.tickets USING delta LOCATION '{table}'")
        assert land_now(source, lambda: spark) == ["landing the rows of version 1"]
        spark.sql("INSERT INTO feeds.tickets VALUES (3, 'three')")
        assert land_now(source, lambda: spark) == ["landing version 2"]
        assert land_now(source) == []
    finally:
        spark.sql("DROP DATABASE feeds CASCADE")
    assert list_texts(source) == ["one", "二 two", "three"]


def test_a_table_without_a_feed_is_named_with_the_remedy(spark, tmp_path):
    spark.range(3).selectExpr("id", "'a' AS text").write.format("delta").save(str(tmp_path / "table"))
    with pytest.raises(ValueError, match=r"no change feed: ALTER TABLE .*enableChangeDataFeed = true"):
        land_now(make_source(tmp_path))


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ("INSERT INTO {table} VALUES (4, 'four')", ["one", "二 two", "four", "five"]),
        ("DELETE FROM {table}", ["five"]),
        (None, ["one", "二 two", "five"]),
    ],
)
def test_of_two_drivers_at_once_one_lands(spark, table, tmp_path, change, texts):
    """The second one lands after the first one has looked: both add rows, or both take a snapshot, the last
    time of a table that was not landed yet."""
    source = make_source(tmp_path)
    if change is not None:
        land_now(source, lambda: spark)
        sql(spark, table, change)
    others = iter([lambda: land_now(source, lambda: spark)])

    def start_late():
        for land_first in others:  # a round that takes a snapshot asks for Spark twice
            insert(spark, table, (5, "five"))
            assert land_first()
        return spark

    with pytest.raises(RuntimeError, match="another writer changed the rows meanwhile; run the stage again"):
        land_now(source, start_late)
    assert land_now(source) == []
    assert list_texts(source) == texts


def land_and_die(source) -> None:
    """A driver that is killed when its rows are in files, and the commit would be next."""
    from pipelines.spark import session

    write._commit = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    land_now(source, lambda: session("killed", TEST_CONF))


@pytest.mark.slow
def test_a_driver_killed_before_its_commit_loses_and_doubles_nothing(spark, table, tmp_path):
    source = make_source(tmp_path)
    land_now(source, lambda: spark)
    insert(spark, table, (3, "three"))
    before = set(tmp_path.glob("landed/*/*.parquet"))
    driver = multiprocessing.get_context("spawn").Process(target=land_and_die, args=(source,))
    driver.start()
    driver.join()
    assert driver.exitcode == -signal.SIGKILL
    left = set(tmp_path.glob("landed/*/*.parquet")) - before
    assert left, "its rows were in files"
    assert list_texts(source) == ["one", "二 two"]
    assert land_now(source, lambda: spark) == ["landing version 2"]
    assert list_texts(source) == ["one", "二 two", "three"]
    pinned = pin(source.path)
    assert LANDED_ROWS.digest(LANDED_ROWS.read(spark, source.path)) == (pinned.digest, 3)
