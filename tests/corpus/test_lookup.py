"""Rows that have one of some values: the driver's memory and Spark give the same."""

import pyarrow as pa
import pytest

from pipelines import arrow_rows
from pipelines.arrow_rows import read_few
from pipelines.corpus.lookup import ArrowRows, SparkRows
from pipelines.pin import open_log
from pipelines.tables import QUARANTINE
from tests.small_tables import broken_rows

ROWS = pa.table(
    {
        "key": ["a", "b", "c", "d", "e"],
        "name": ["x", "y", "x", None, "z"],
        "numbers": pa.array([[1, 2], [], [2, 2, 3], None, [4]], pa.list_(pa.int64())),
    }
)


@pytest.fixture(params=["arrow", "spark"])
def rows(request, spark):
    if request.param == "spark":
        return SparkRows(spark.createDataFrame(ROWS), "key")
    return ArrowRows(pa.concat_tables([ROWS.slice(0, 2), ROWS.slice(2)]))


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("name", ["x", "z", "w"], "ace"),
        ("numbers", [2, 4], "ace"),
        ("numbers", [3], "c"),
        ("key", ["d"], "d"),
    ],
)
def test_rows_with_one_of_the_values_are_found_once(rows, column, values, expected):
    found = rows.find(column, pa.array(values), 3)
    assert found.column_names == ROWS.column_names
    by_key = {row["key"]: row for row in ROWS.to_pylist()}
    assert sorted(found.to_pylist(), key=lambda row: row["key"]) == [by_key[key] for key in expected]


@pytest.mark.parametrize(("column", "values"), [("name", ["x", "y", "z"]), ("numbers", [1, 2, 4])])
def test_more_rows_than_allowed_are_none(rows, column, values):
    assert rows.find(column, pa.array(values), 2) is None


SCHEMA = pa.schema([("offset", pa.int64()), ("reason", pa.string())])


def test_a_small_table_is_read_with_the_names_of_its_shards(spark, tmp_path, monkeypatch):
    path = str(tmp_path / "quarantine")
    for name, offsets in (("a", [1, 2]), ("b", [3])):
        QUARANTINE.append(broken_rows(spark, offsets), path, fingerprint=name, facts={})
    found = read_few(open_log(path), SCHEMA, shard="shard")
    assert sorted(found["offset"].to_pylist()) == [1, 2, 3]
    rows = QUARANTINE.read(spark, path).select("offset", "_metadata.file_name").collect()
    expected = {row["offset"]: row["file_name"] for row in rows}
    assert {row["offset"]: row["shard"] for row in found.to_pylist()} == expected
    assert len(set(expected.values())) > 1
    # An earlier version has fewer rows; a table above the limit is Spark's.
    assert read_few(open_log(path, version=1), SCHEMA).num_rows == 2
    monkeypatch.setattr(arrow_rows, "MOST_ROWS", 2)
    assert read_few(open_log(path, version=1), SCHEMA).num_rows == 2
    assert read_few(open_log(path), SCHEMA) is None


def test_rows_behind_a_deletion_vector_are_left_to_delta(spark, tmp_path):
    path = str(tmp_path / "quarantine")
    QUARANTINE.append(broken_rows(spark, range(9)), path, fingerprint="a", facts={})
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = true)")
    spark.sql(f"DELETE FROM delta.`{path}` WHERE offset = 1")
    assert read_few(open_log(path), SCHEMA) is None
