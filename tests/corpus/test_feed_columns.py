"""Columns of tables with a change feed: their values as landed, and what becomes of rows when they change."""

import json

import pytest

from pipelines.tables import LANDED_ROWS
from tests.corpus.feeds import FEED, insert, land_now, list_texts, make_source, read_landed, sql

MAPPED = "delta.columnMapping.mode = 'name', delta.minReaderVersion = 2, delta.minWriterVersion = 5"


@pytest.fixture
def table(spark, tmp_path):
    """Two versions: one row, and one row more."""
    insert(spark, tmp_path / "table", (1, "one"))
    insert(spark, tmp_path / "table", (2, "二 two"))
    return tmp_path / "table"


def test_columns_may_be_added_and_renamed(spark, table, tmp_path):
    source = make_source(tmp_path)
    land_now(source, lambda: spark)
    sql(spark, table, "ALTER TABLE {table} ADD COLUMN (`来源` STRING)")
    sql(spark, table, "INSERT INTO {table} VALUES (3, 'three', '网')")
    mapped = make_source(tmp_path, metadata={"from": "来源"})
    assert land_now(mapped, lambda: spark) == ["landing versions 2 to 3"]
    assert [row.get("from") for row in read_landed(mapped)] == [None, None, "网"]
    sql(spark, table, f"ALTER TABLE {{table}} SET TBLPROPERTIES ({MAPPED})")
    sql(spark, table, "ALTER TABLE {table} RENAME COLUMN `来源` TO `from, 来源`")
    sql(spark, table, "INSERT INTO {table} VALUES (4, 'four', '书')")
    with pytest.raises(ValueError, match=r"no column '来源'; correct .*: id, text, from, 来源, delta"):
        land_now(mapped, lambda: spark)
    renamed = make_source(tmp_path, metadata={"from": "from, 来源"})
    assert "dropped, renamed or retyped columns" in land_now(renamed, lambda: spark)[0]
    assert [row.get("from") for row in read_landed(renamed)] == [None, None, "网", "书"]
    assert land_now(renamed) == []


def test_binary_columns_are_not_landed(spark, tmp_path):
    insert(spark, tmp_path / "table", (1, "one", b"x"), ddl="id INT, text STRING, scan BINARY")
    source = make_source(tmp_path)
    land_now(source, lambda: spark)
    insert(spark, tmp_path / "table", (2, "two", b"y"), ddl="id INT, text STRING, scan BINARY")
    land_now(source, lambda: spark)
    records = [json.loads(row.record) for row in LANDED_ROWS.read(spark, source.path).collect()]
    expected = [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]
    assert sorted(records, key=lambda record: record["id"]) == expected


def test_a_column_renamed_by_the_first_version_of_a_round_takes_a_snapshot(spark, table, tmp_path):
    """The feed of Delta does not show it: rows of before would keep the old name, and have no text."""
    sql(spark, table, f"ALTER TABLE {{table}} SET TBLPROPERTIES ({MAPPED})")
    land_now(make_source(tmp_path), lambda: spark)
    sql(spark, table, "ALTER TABLE {table} RENAME COLUMN text TO body")
    sql(spark, table, "INSERT INTO {table} VALUES (3, 'three')")
    renamed = make_source(tmp_path, fields={"text": "body", "key": "id"})
    with pytest.raises(ValueError, match=r"versions 3 to 4 dropped, renamed .*changed_files=keep forbids"):
        land_now(renamed, lambda: spark, changed_files="keep")
    (note,) = land_now(renamed, lambda: spark)
    assert note.endswith("anew, because versions 3 to 4 dropped, renamed or retyped columns")
    assert list_texts(renamed) == ["one", "二 two", "three"]
    assert land_now(renamed) == []
    sql(spark, table, "INSERT INTO {table} VALUES (4, 'four')")
    sql(spark, table, "ALTER TABLE {table} RENAME COLUMN body TO text")
    sql(spark, table, "ALTER TABLE {table} RENAME COLUMN text TO body")
    landing, again = land_now(renamed, lambda: spark)
    assert landing == "landing versions 5 to 7", "the columns are those of before; the feed says more"
    assert again.endswith("because versions 5 to 7 dropped, renamed or retyped columns")
    assert list_texts(renamed) == ["one", "二 two", "three", "four"]


@pytest.mark.parametrize("place", ["path", "catalog"])
def test_a_column_dropped_and_added_again_is_another_one(spark, table, tmp_path, place):
    """A catalog does not show the names of columns in the files."""
    source = make_source(tmp_path, metadata={"from": "source"})
    if place == "catalog":
        source = make_source(tmp_path, metadata={"from": "source"}, table="reshaped.tickets")
    spark.sql("CREATE DATABASE reshaped")
    try:
        spark.sql(f"CREATE TABLE reshaped.tickets USING delta LOCATION '{table}'")
        sql(spark, table, f"ALTER TABLE {{table}} SET TBLPROPERTIES ({MAPPED})")
        sql(spark, table, "ALTER TABLE {table} ADD COLUMN (source STRING)")
        sql(spark, table, "INSERT INTO {table} VALUES (3, 'three', 'web')")
        land_now(source, lambda: spark)
        sql(spark, table, "ALTER TABLE {table} DROP COLUMN source")
        sql(spark, table, "ALTER TABLE {table} ADD COLUMN (source STRING)")
        sql(spark, table, "INSERT INTO {table} VALUES (4, 'four', 'book')")
        assert "dropped, renamed or retyped columns" in land_now(source, lambda: spark)[-1]
        assert land_now(source) == []
    finally:
        spark.sql("DROP DATABASE reshaped CASCADE")
    assert [row.get("from") for row in read_landed(source)] == [None, None, None, "book"]


VALUES = """SELECT 9223372036854775807 AS id, '引号 " 、 \\n line' AS text,
    TIMESTAMP '2024-02-29 23:59:59.123456Z' AS at, TIMESTAMP_NTZ '2024-02-29 23:59:59.5' AS `local`,
    DATE '2024-02-29' AS on, true AS good, CAST(NULL AS STRING) AS none, '一 1/2' AS day,
    CAST('12345678901234567890123456789.000000001' AS DECIMAL(38, 9)) AS price"""


def test_values_of_all_kinds_keep_their_spelling(spark, tmp_path):
    """`day` is a column of partitions, whose values stand in the names of folders."""
    writer = spark.sql(VALUES).write.format("delta").options(**FEED).partitionBy("day")
    writer.save(str(tmp_path / "table"))
    names = ("at", "local", "on", "good", "none", "day", "price")
    source = make_source(tmp_path, metadata={name: name for name in names})
    land_now(source, lambda: spark)
    assert read_landed(source) == [
        {
            "key": "9223372036854775807",
            "text": '引号 " 、 \n line',
            "at": "2024-02-29T23:59:59.123456Z",
            "local": "2024-02-29T23:59:59.500000",
            "on": "2024-02-29",
            "good": "true",
            "day": "一 1/2",
            "price": "12345678901234567890123456789.000000001",
        }
    ]
