"""Overwrites and appends of one writer, and the pins that they leave."""

import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipelines.delta import Table
from pipelines.pin import open_log, pin
from pipelines.tables import QUARANTINE
from tests.conftest import count_jobs
from tests.small_tables import PARTITIONED, broken_rows, numbers


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "quarantine")


def test_a_second_write_of_the_same_inputs_does_nothing(spark, path):
    first = QUARANTINE.overwrite(broken_rows(spark, range(3)), path, fingerprint="a", facts={"rows in": 3})
    again = QUARANTINE.overwrite(broken_rows(spark, range(9)), path, fingerprint="a", facts={})
    assert again == first == pin(path)
    assert first.facts == {"rows in": 3}
    assert QUARANTINE.read(spark, path).count() == 3


def test_earlier_inputs_write_their_rows_again(spark, path):
    # The trap: Delta ignores a transaction id it has seen, and A -> B -> A would silently leave B.
    pins = [
        QUARANTINE.overwrite(broken_rows(spark, range(size)), path, fingerprint=name, facts={})
        for name, size in (("a", 3), ("b", 5), ("a", 3))
    ]
    assert QUARANTINE.read(spark, path).count() == 3
    assert pins[0].digest == pins[2].digest != pins[1].digest
    assert QUARANTINE.read(spark, path, pins[1].version).count() == 5


def test_an_overwrite_replaces_only_the_rows_of_its_base(spark, path):
    def overwrite(base, name):
        rows = broken_rows(spark, range(3))
        return QUARANTINE.overwrite(rows, path, base=base, fingerprint=name, facts={})

    for base, found in (("x", None), ("", "a"), ("", None), ("x", None), ("a", "b"), ("a", None)):
        if found is None:
            with pytest.raises(
                RuntimeError, match="another writer changed the rows meanwhile; run the stage"
            ):
                overwrite(base, "c")
        else:
            assert overwrite(base, found).fingerprint == found
    assert overwrite("a", "b") == pin(path), "the rows are there already"
    DeltaTable(path).optimize.compact()
    assert overwrite("b", "d") == pin(path), "a maintenance changes no rows"


def test_a_repeated_append_adds_rows_once(spark, path):
    for name, offsets in (("a", range(3)), ("b", range(3, 5)), ("a", range(3))):
        QUARANTINE.append(broken_rows(spark, offsets), path, fingerprint=name, facts={})
    assert QUARANTINE.read(spark, path).count() == 5
    assert pin(path, made_from="a").num_rows == 3


def test_an_append_adds_only_new_keys(spark, path):
    QUARANTINE.append(broken_rows(spark, [1, 2]), path, fingerprint="a", facts={})
    second = QUARANTINE.append(broken_rows(spark, [2, 3], reason="later"), path, fingerprint="b", facts={})
    assert second.num_rows == 1
    assert {row.offset: row.reason for row in QUARANTINE.read(spark, path).collect()} == {
        1: "r",
        2: "r",
        3: "later",
    }


def test_an_append_compares_keys_with_versions_that_its_caller_has_not_seen(spark, path):
    QUARANTINE.append(broken_rows(spark, [1]), path, fingerprint="a", facts={})
    compared = open_log(path)
    QUARANTINE.append(broken_rows(spark, [2]), path, fingerprint="b", facts={}, compared=compared)
    # A version is new, so key 2 is found; key 1 is compared, too.
    late = QUARANTINE.append(
        broken_rows(spark, [1, 2, 3]), path, fingerprint="c", facts={}, compared=compared
    )
    assert late.num_rows == 1
    assert sorted(row.offset for row in QUARANTINE.read(spark, path).collect()) == [1, 2, 3]


def test_an_append_compares_keys_with_a_table_that_was_created_again(spark, path):
    QUARANTINE.append(broken_rows(spark, [1]), path, fingerprint="a", facts={})
    compared = open_log(path)
    shutil.rmtree(path)
    QUARANTINE.append(broken_rows(spark, [2]), path, fingerprint="b", facts={})
    assert open_log(path).version == compared.version
    late = QUARANTINE.append(broken_rows(spark, [2, 3]), path, fingerprint="c", facts={}, compared=compared)
    assert late.num_rows == 1
    assert sorted(row.offset for row in QUARANTINE.read(spark, path).collect()) == [2, 3]


def test_nothing_is_held_without_a_job(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1]), path, fingerprint="a", facts={})
    before = count_jobs(spark)
    held = QUARANTINE.hold_nothing(spark, path)
    extended = QUARANTINE.extend(held, path, base="a", fingerprint="b", facts={"n": 1})
    assert count_jobs(spark) == before
    assert extended.num_rows == 1
    emptied = QUARANTINE.overwrite(held, path, fingerprint="c", facts={})
    assert (emptied.num_rows, emptied.digest) == (0, QUARANTINE.digest(held.rows)[0])
    assert QUARANTINE.read(spark, path).count() == 0


def test_deleted_rows_are_appended_again(spark, path):
    QUARANTINE.append(broken_rows(spark, range(3)), path, fingerprint="a", facts={})
    spark.sql(f"DELETE FROM delta.`{path}` WHERE offset = 1")
    assert pin(path, made_from="a") is None
    assert QUARANTINE.append(broken_rows(spark, range(3)), path, fingerprint="a", facts={}).num_rows == 1
    assert QUARANTINE.read(spark, path).count() == 3
    assert pin(path, made_from="a").num_rows == 1


def test_a_shortened_log_gives_a_foreign_pin(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1, 2]), path, fingerprint="a", facts={})
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('note' = 'later')")
    newest = DeltaTable(path)
    newest.create_checkpoint()
    for version in range(newest.version()):
        (Path(path) / "_delta_log" / f"{version:020d}.json").unlink()
    found = pin(path)
    assert (found.version, found.fingerprint, found.facts) == (
        newest.version(),
        "",
        {"operation": "a write older than the log"},
    )


def test_a_pin_behind_many_commits_is_found(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1]), path, fingerprint="a", facts={})
    for note in range(20):
        spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('note' = '{note}')")
    assert pin(path).fingerprint == pin(path, made_from="a").fingerprint == "a"


def test_foreign_changes_differ_from_maintenance(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1, 2]), path, fingerprint="a", facts={})
    spark.sql(f"OPTIMIZE delta.`{path}`")
    assert pin(path).fingerprint == "a"
    spark.sql(f"DELETE FROM delta.`{path}` WHERE offset = 1")
    changed = pin(path)
    assert (changed.fingerprint, changed.digest, changed.facts) == ("", "", {"operation": "DELETE"})
    with pytest.raises(
        RuntimeError, match=r"outside of Distributary \(version 3, DELETE\).*delete the table"
    ):
        QUARANTINE.overwrite(broken_rows(spark, [1, 2]), path, fingerprint="b", facts={})


def test_an_overwrite_removes_old_partitions(spark, path):
    PARTITIONED.overwrite(numbers(spark, (1, "train"), (2, "test")), path, fingerprint="a", facts={})
    spark.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")
    try:
        PARTITIONED.overwrite(numbers(spark, (3, "train")), path, fingerprint="b", facts={})
    finally:
        spark.conf.unset("spark.sql.sources.partitionOverwriteMode")
    assert [row.number for row in PARTITIONED.read(spark, path).collect()] == [3]


def test_a_new_table_takes_two_commits(spark, path):
    pinned = PARTITIONED.overwrite(numbers(spark, (1, "train")), path, fingerprint="a", facts={})
    commits = DeltaTable(path).history()
    assert [commit["operation"] for commit in commits] == ["WRITE", "CREATE TABLE"]
    assert pinned.version == 1
    configuration = DeltaTable(path).metadata().configuration
    assert configuration["delta.constraints.positive"] == "number > 0"
    assert configuration["delta.deletedFileRetentionDuration"] == "interval 365 days"
    assert [field.nullable for field in DeltaTable(path).schema().fields] == [False, False, True]


def test_a_new_table_takes_one_spark_job(spark, path):
    before = count_jobs(spark)
    QUARANTINE.overwrite(broken_rows(spark, range(3)), path, fingerprint="a", facts={})
    assert count_jobs(spark) - before == 1


def test_digest_and_files_come_from_the_same_rows(spark, path):
    random = broken_rows(spark, range(50)).selectExpr(
        "source", "file", "offset", "line", "uuid() || rand() AS reason", "raw"
    )
    pinned = QUARANTINE.overwrite(random, path, fingerprint="a", facts={})
    assert QUARANTINE.digest(QUARANTINE.read(spark, path)) == (pinned.digest, 50)


def test_a_score_without_value_is_found_by_a_limit(spark, path):
    scores = Table(name="scores", row="one score", key=("id",), ddl="id INT NOT NULL, score DOUBLE")
    rows = spark.createDataFrame([(1, 0.5), (2, float("nan")), (3, None)], scores.schema).coalesce(1)
    scores.overwrite(rows, path, fingerprint="a", facts={})
    found = [row.id for row in scores.read(spark, path).where("score > 0.7").collect()]
    assert found == [2]  # as Spark compares; statistics that leave NaN out would hide its row group


def read_offsets(rows):
    return sorted(row.offset for row in rows.select("offset").collect())


def test_newest_rows_are_read_by_their_files(spark, path, monkeypatch):
    assert read_offsets(QUARANTINE.read_newest(spark, path)) == []
    for name, offsets in (("a", [1, 2, 3]), ("b", [3, 4])):
        QUARANTINE.append(broken_rows(spark, offsets), path, fingerprint=name, facts={})
    assert len(open_log(path).list_plain_shards(10)) >= 2
    found = QUARANTINE.read_newest(spark, path)
    assert (read_offsets(found), found.columns) == ([1, 2, 3, 4], QUARANTINE.schema.names)
    assert all(file.endswith(".parquet") for file in found.inputFiles())
    spark.sql(f"DELETE FROM delta.`{path}` WHERE offset = 2")
    assert read_offsets(QUARANTINE.read_newest(spark, path)) == [1, 3, 4]
    assert open_log(path).list_plain_shards(0) is None
    monkeypatch.setattr("pipelines.delta.MOST_FILES", 0)
    assert read_offsets(QUARANTINE.read_newest(spark, path)) == [1, 3, 4]


def test_rows_that_deletion_vectors_hide_stay_hidden(spark, path):
    QUARANTINE.append(broken_rows(spark, range(10)), path, fingerprint="a", facts={})
    spark.sql(
        f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true', "
        "'delta.minReaderVersion' = '3', 'delta.minWriterVersion' = '7')"
    )
    spark.sql(f"DELETE FROM delta.`{path}` WHERE offset = 4")
    assert open_log(path).list_plain_shards(10) is None
    assert read_offsets(QUARANTINE.read_newest(spark, path)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_partitioned_tables_are_not_read_by_their_files(spark, path):
    PARTITIONED.overwrite(numbers(spark, (1, "train")), path, fingerprint="a", facts={})
    assert open_log(path).list_plain_shards(10) is None
    assert [row.split for row in PARTITIONED.read_newest(spark, path).collect()] == ["train"]
