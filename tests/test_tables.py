import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipelines.delta import ContractError, Table, spark_path
from pipelines.pin import Pin, fingerprint, pin
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES


def broken_rows(spark, offsets, reason="r"):
    return spark.createDataFrame(
        [("s", "f", offset, 1, reason, b"raw") for offset in offsets], QUARANTINE.schema
    )


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "quarantine")


def test_a_second_write_from_the_same_inputs_is_a_no_op(spark, path):
    first = QUARANTINE.overwrite(broken_rows(spark, range(3)), path, fingerprint="a", facts={"rows in": 3})
    again = QUARANTINE.overwrite(broken_rows(spark, range(9)), path, fingerprint="a", facts={})
    assert again == first == pin(path)
    assert first.facts == {"rows in": 3}
    assert QUARANTINE.read(spark, path).count() == 3


def test_going_back_to_earlier_inputs_writes_the_earlier_rows_again(spark, path):
    # The trap: Delta ignores a transaction id it has seen, and A -> B -> A would silently leave B.
    pins = [
        QUARANTINE.overwrite(broken_rows(spark, range(size)), path, fingerprint=name, facts={})
        for name, size in (("a", 3), ("b", 5), ("a", 3))
    ]
    assert QUARANTINE.read(spark, path).count() == 3
    assert pins[0].digest == pins[2].digest != pins[1].digest
    assert QUARANTINE.read(spark, path, pins[1].version).count() == 5


def test_an_append_happens_once_however_often_it_is_run(spark, path):
    for name, offsets in (("a", range(3)), ("b", range(3, 5)), ("a", range(3))):
        QUARANTINE.append(broken_rows(spark, offsets), path, fingerprint=name, facts={})
    assert QUARANTINE.read(spark, path).count() == 5
    assert pin(path, made_from="a").num_rows == 3


def write_at_once(monkeypatch, *writes) -> list:
    """Outcomes of writes that have all read the log before the first of them commits."""
    everybody, waited, commit = threading.Barrier(len(writes)), threading.local(), Table._commit

    def commit_together(*arguments):
        if not hasattr(waited, "once"):
            waited.once = everybody.wait(60)
        commit(*arguments)

    monkeypatch.setattr(Table, "_commit", commit_together)
    with ThreadPoolExecutor(len(writes)) as pool:
        outcomes = [pool.submit(write) for write in writes]
    return [outcome.exception() or outcome.result() for outcome in outcomes]


def test_two_that_replace_the_rows_at_once_leave_those_of_one_and_the_other_is_told(spark, path, monkeypatch):
    QUARANTINE.overwrite(broken_rows(spark, range(2)), path, fingerprint="before", facts={})
    rows = {"a": broken_rows(spark, range(3)), "b": broken_rows(spark, range(5))}
    outcomes = write_at_once(
        monkeypatch,
        *[
            partial(QUARANTINE.overwrite, each, path, fingerprint=name, facts={})
            for name, each in rows.items()
        ],
    )
    (won,), (lost,) = (
        [outcome for outcome in outcomes if isinstance(outcome, kind)] for kind in (Pin, Exception)
    )
    assert "quarantine at" in str(lost)
    assert "another writer changed the rows meanwhile; run the stage again" in str(lost)
    assert won == pin(path)
    assert QUARANTINE.read(spark, path).count() == won.num_rows


@pytest.mark.parametrize("exists", [False, True])
def test_two_that_append_at_once_add_every_key_once(spark, path, monkeypatch, exists):
    if exists:
        QUARANTINE.append(broken_rows(spark, [0]), path, fingerprint="before", facts={})
    pins = write_at_once(
        monkeypatch,
        *[
            partial(QUARANTINE.append, broken_rows(spark, offsets), path, fingerprint=name, facts={})
            for name, offsets in (("a", [1, 2, 3]), ("b", [3, 4]))
        ],
    )
    offsets = [row.offset for row in QUARANTINE.read(spark, path).collect()]
    assert sorted(offsets) == [*([0] if exists else []), 1, 2, 3, 4]
    assert (
        sum(each.num_rows for each in pins) == 4
    )  # the later one records the rows that it added, not those it was given
    assert sorted(each.fingerprint for each in pins) == ["a", "b"]


def test_an_append_adds_only_keys_that_are_not_there(spark, path):
    QUARANTINE.append(broken_rows(spark, [1, 2]), path, fingerprint="a", facts={})
    second = QUARANTINE.append(broken_rows(spark, [2, 3], reason="later"), path, fingerprint="b", facts={})
    assert second.num_rows == 1
    assert {row.offset: row.reason for row in QUARANTINE.read(spark, path).collect()} == {
        1: "r",
        2: "r",
        3: "later",
    }


def test_rows_that_somebody_deleted_are_appended_again(spark, path):
    QUARANTINE.append(broken_rows(spark, range(3)), path, fingerprint="a", facts={})
    spark.sql(f"DELETE FROM delta.`{path}` WHERE offset = 1")
    assert pin(path, made_from="a") is None
    assert QUARANTINE.append(broken_rows(spark, range(3)), path, fingerprint="a", facts={}).num_rows == 1
    assert QUARANTINE.read(spark, path).count() == 3
    assert pin(path, made_from="a").num_rows == 1


def test_a_table_whose_log_was_cut_off_is_there_but_not_known(spark, path):
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


def test_a_record_behind_many_commits_is_found(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1]), path, fingerprint="a", facts={})
    for note in range(20):
        spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('note' = '{note}')")
    assert pin(path).fingerprint == pin(path, made_from="a").fingerprint == "a"


def test_the_digest_ignores_order_and_partitioning_and_sees_every_change(spark):
    rows = broken_rows(spark, range(20))
    digest, num_rows = QUARANTINE.digest(rows)
    assert num_rows == 20
    assert QUARANTINE.digest(rows.orderBy("offset", ascending=False).repartition(7))[0] == digest
    changed = [
        broken_rows(spark, range(21)),
        broken_rows(spark, [*range(19), 99]),
        broken_rows(spark, range(20), reason="other"),
    ]
    assert len({digest, *(QUARANTINE.digest(each)[0] for each in changed)}) == 4


def test_the_digest_tells_a_null_from_its_neighbour(spark):
    def prediction(text, label):
        rows = spark.createDataFrame(
            [("d", text, label, "p", 0.5, "m", 1, "r", 0)],
            "doc_id string, text string, label string, "
            "prediction string, score double, model_name string, model_version int, run_id string, "
            "documents_version bigint",
        )
        return rows.selectExpr("*", "now() AS scored_at", "rand() AS latency_ms")

    # label sorts before text: hashing the columns in one call would give both rows one hash, since nulls are passed over.
    digests = [PREDICTIONS.digest(prediction(*pair))[0] for pair in (("x", None), ("", "x"), ("x", None))]
    assert digests[0] == digests[2] != digests[1]  # and the time scored does not count


def test_nulls_repeated_keys_and_strange_columns_are_refused_before_anything_is_written(spark, path):
    rows = broken_rows(spark, [1, 2])
    repeated = r"quarantine: 1 of 3 rows repeat a key \(source, file, offset\); first .*'offset': 2"
    with pytest.raises(ContractError, match=repeated):
        QUARANTINE.overwrite(broken_rows(spark, [1, 2, 2]), path, fingerprint="a", facts={})
    with pytest.raises(ContractError, match=r"2 of 2 rows have null reason; first at .*'offset': 1"):
        QUARANTINE.overwrite(
            rows.selectExpr("source", "file", "offset", "line", "cast(null AS string) AS reason", "raw"),
            path,
            fingerprint="a",
            facts={},
        )
    with pytest.raises(ContractError, match=r"missing \['raw'\], not in the definition \['extra'\]"):
        QUARANTINE.overwrite(rows.withColumnRenamed("raw", "extra"), path, fingerprint="a", facts={})
    with pytest.raises(ContractError, match="line is int, not bigint"):
        QUARANTINE.overwrite(
            rows.withColumn("line", rows["line"].cast("int")), path, fingerprint="a", facts={}
        )
    assert pin(path) is None


def test_delta_itself_holds_the_constraints(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1]), path, fingerprint="a", facts={})
    with pytest.raises(Exception, match=r"DELTA_VIOLATE_CONSTRAINT|violated"):
        spark.sql(f"INSERT INTO delta.`{path}` VALUES ('s', 'f', -5, 1, 'r', null)")
    with pytest.raises(Exception, match=r"DELTA_NOT_NULL|violated"):
        spark.sql(f"INSERT INTO delta.`{path}` VALUES ('s', 'f', 5, 1, null, null)")


def test_a_change_from_outside_is_told_apart_from_maintenance(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1, 2]), path, fingerprint="a", facts={})
    spark.sql(f"OPTIMIZE delta.`{path}`")
    assert pin(path).fingerprint == "a"
    spark.sql(f"DELETE FROM delta.`{path}` WHERE offset = 1")
    changed = pin(path)
    assert (changed.fingerprint, changed.digest, changed.facts) == ("", "", {"operation": "DELETE"})


def test_a_table_that_is_not_there_names_the_remedy(spark, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no documents table at .*; run the stage that writes it"):
        DOCUMENTS.read(spark, str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "table", [DOCUMENTS, QUARANTINE, SEQUENCES, PREDICTIONS], ids=lambda table: table.name
)
def test_every_column_says_what_it_is_and_the_key_is_required(table):
    columns = {column.name: column for column in table.schema}
    assert all(column.metadata.get("comment") for column in table.schema)
    assert not any(columns[name].nullable for name in table.key)


def test_a_fingerprint_depends_on_values_not_on_the_order_of_keys():
    assert (
        fingerprint({"a": 1, "b": [2]})
        == fingerprint(json.loads('{"b": [2], "a": 1}'))
        != fingerprint({"a": 1, "b": ["2"]})
    )


@pytest.mark.parametrize(
    ("path", "databricks", "expected"),
    [
        ("/a b/c", False, "file:/a b/c"),
        ("s3a://b/c", False, "s3a://b/c"),
        ("/dbfs/c", True, "dbfs:/c"),
        ("/Volumes/c", True, "/Volumes/c"),
    ],
)
def test_spark_is_told_what_is_local(monkeypatch, path, databricks, expected):
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    if databricks:
        monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    assert spark_path(path) == expected
