import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.delta import ContractError, Table
from pipelines.digest import digest_rows
from pipelines.paths import spark_path
from pipelines.pin import Pin, fingerprint, pin
from pipelines.schema import arrow_schema
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES


def broken_rows(spark, offsets, reason="r"):
    return spark.createDataFrame(
        [("s", "f", offset, 1, reason, b"raw") for offset in offsets], QUARANTINE.schema
    )


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


def test_a_repeated_append_adds_rows_once(spark, path):
    for name, offsets in (("a", range(3)), ("b", range(3, 5)), ("a", range(3))):
        QUARANTINE.append(broken_rows(spark, offsets), path, fingerprint=name, facts={})
    assert QUARANTINE.read(spark, path).count() == 5
    assert pin(path, made_from="a").num_rows == 3


def write_at_once(monkeypatch, *writes) -> list:
    """Outcomes of writes that have all read the log before the first of them commits."""
    everybody, waited, commit = threading.Barrier(len(writes)), threading.local(), Table._commit

    def commit_together(*arguments, **named):
        if not hasattr(waited, "once"):
            waited.once = everybody.wait(60)
        commit(*arguments, **named)

    monkeypatch.setattr(Table, "_commit", commit_together)
    with ThreadPoolExecutor(len(writes)) as pool:
        outcomes = [pool.submit(write) for write in writes]
    return [outcome.exception() or outcome.result() for outcome in outcomes]


def test_two_overwrites_at_once_keep_one_and_fail_one(spark, path, monkeypatch):
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
def test_two_appends_at_once_add_every_key_once(spark, path, monkeypatch, exists):
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


def test_an_append_adds_only_new_keys(spark, path):
    QUARANTINE.append(broken_rows(spark, [1, 2]), path, fingerprint="a", facts={})
    second = QUARANTINE.append(broken_rows(spark, [2, 3], reason="later"), path, fingerprint="b", facts={})
    assert second.num_rows == 1
    assert {row.offset: row.reason for row in QUARANTINE.read(spark, path).collect()} == {
        1: "r",
        2: "r",
        3: "later",
    }


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


def test_digest_ignores_order_and_sees_changes(spark):
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


def test_digest_separates_null_from_next_column(spark):
    def prediction(text, label):
        rows = spark.createDataFrame(
            [("d", "h", text, label, "p", 0.5, "m", 1, "r", 0)],
            "doc_id string, content_hash string, text string, label string, "
            "prediction string, score double, model_name string, model_version int, run_id string, "
            "documents_version bigint",
        )
        return rows.selectExpr("*", "now() AS scored_at", "rand() AS latency_ms")

    # label sorts before text. xxhash64 skips nulls: one call for all columns gives both rows one hash.
    digests = [PREDICTIONS.digest(prediction(*pair))[0] for pair in (("x", None), ("", "x"), ("x", None))]
    assert digests[0] == digests[2] != digests[1]  # and the scoring time does not count


def test_broken_rows_are_refused_before_the_write(spark, path):
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


def test_delta_enforces_the_constraints(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1]), path, fingerprint="a", facts={})
    with pytest.raises(Exception, match=r"DELTA_VIOLATE_CONSTRAINT|violated"):
        spark.sql(f"INSERT INTO delta.`{path}` VALUES ('s', 'f', -5, 1, 'r', null)")
    with pytest.raises(Exception, match=r"DELTA_NOT_NULL|violated"):
        spark.sql(f"INSERT INTO delta.`{path}` VALUES ('s', 'f', 5, 1, null, null)")


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


def test_a_missing_table_names_the_remedy(spark, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no documents table at .*; run the stage that writes it"):
        DOCUMENTS.read(spark, str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "table", [DOCUMENTS, QUARANTINE, SEQUENCES, PREDICTIONS], ids=lambda table: table.name
)
def test_columns_have_comments_and_keys_are_required(table):
    columns = {column.name: column for column in table.schema}
    assert all(column.metadata.get("comment") for column in table.schema)
    assert not any(columns[name].nullable for name in table.key)


def test_fingerprint_ignores_the_order_of_keys():
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
def test_spark_gets_local_paths_as_uris(monkeypatch, path, databricks, expected):
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    if databricks:
        monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    assert spark_path(path) == expected


def test_appends_beside_maintenance_add_every_key_once(spark, path, monkeypatch):
    # A maintenance commit between two reads of the log: other versions, the same rows.
    QUARANTINE.append(broken_rows(spark, [0]), path, fingerprint="before", facts={})
    commit, others = Table._commit, []

    def commit_late(*arguments, made_from, **named):
        write = partial(commit, *arguments, made_from=made_from, **named)
        if made_from == "a" and not others:
            spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('note' = 'x')")
            others.append(ThreadPoolExecutor(1).submit(append, "b", [3, 4]))
            assert b_read_the_log.wait(60)
            write()
            a_committed.set()
            return
        if made_from == "b" and not b_read_the_log.is_set():
            b_read_the_log.set()
            assert a_committed.wait(60)
        write()

    def append(name, offsets):
        return QUARANTINE.append(broken_rows(spark, offsets), path, fingerprint=name, facts={})

    b_read_the_log, a_committed = threading.Event(), threading.Event()
    monkeypatch.setattr(Table, "_commit", commit_late)
    # The one that commits second records the rows that it added, not those it was given.
    assert append("a", [1, 2, 3]).num_rows + others[0].result(120).num_rows == 4
    assert sorted(row.offset for row in QUARANTINE.read(spark, path).collect()) == [0, 1, 2, 3, 4]


PARTITIONED = Table(
    name="parts",
    row="one number",
    key=("number",),
    partition_by=("split",),
    checks={"positive": "number > 0"},
    ddl="number INT NOT NULL, split STRING NOT NULL, seen MAP<STRING, INT>",
)


def numbers(spark, *rows):
    return spark.createDataFrame([(*row, None) for row in rows], PARTITIONED.schema)


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


def test_a_table_without_its_constraint_gets_it(spark, path):
    bare = Table(**{**PARTITIONED.__dict__, "checks": {}})
    bare.overwrite(numbers(spark, (1, "train")), path, fingerprint="a", facts={})
    PARTITIONED.overwrite(numbers(spark, (2, "train")), path, fingerprint="b", facts={})
    with pytest.raises(Exception, match=r"DELTA_VIOLATE_CONSTRAINT|violated"):
        spark.sql(f"INSERT INTO delta.`{path}` VALUES (-5, 'train', null)")


def test_a_table_of_other_columns_names_the_remedy(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1]), path, fingerprint="a", facts={})
    with pytest.raises(ContractError, match=r"an earlier Distributary \(source, .*\); delete or move"):
        PARTITIONED.overwrite(numbers(spark, (1, "train")), path, fingerprint="b", facts={})


def test_digest_and_files_come_from_the_same_rows(spark, path):
    random = broken_rows(spark, range(50)).selectExpr(
        "source", "file", "offset", "line", "uuid() || rand() AS reason", "raw"
    )
    pinned = QUARANTINE.overwrite(random, path, fingerprint="a", facts={})
    assert QUARANTINE.digest(QUARANTINE.read(spark, path)) == (pinned.digest, 50)


def test_a_new_table_takes_one_spark_job(spark, path):
    def count_jobs():
        spark._jsc.sc().listenerBus().waitUntilEmpty()
        return spark._jsc.sc().statusStore().jobsList(None).size()

    before = count_jobs()
    QUARANTINE.overwrite(broken_rows(spark, range(3)), path, fingerprint="a", facts={})
    assert count_jobs() - before == 1


def test_digest_ignores_the_order_of_map_entries(spark):
    def digest(entries):
        return digest_rows(spark.sql(f"SELECT 1 AS id, {entries} AS entries"), ["id", "entries"])

    assert digest("map('a', 1, 'b', 2)") == digest("map('b', 2, 'a', 1)") != digest("map('a', 2, 'b', 1)")


def test_arrow_schema_follows_the_ddl(spark):
    found = arrow_schema(
        "a INT NOT NULL COMMENT 'x', b ARRAY<STRUCT<c: STRING, d: BIGINT>>, e TIMESTAMP, f BINARY"
    )
    assert found.names == ["a", "b", "e", "f"]
    assert (found.field("a").type, found.field("a").nullable) == (pa.int32(), False)
    assert found.field("b").type.value_type == pa.struct([("c", pa.string()), ("d", pa.int64())])
    assert (found.field("e").type, found.field("f").type) == (pa.timestamp("us", tz="UTC"), pa.binary())
