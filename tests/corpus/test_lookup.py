"""Rows that have one of some values: the driver's memory and Spark give the same."""

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipelines import arrow_rows
from pipelines.arrow_rows import read_few
from pipelines.corpus.lookup import ArrowRows, SparkRows
from pipelines.corpus.neardup import stored
from pipelines.corpus.neardup.minhash import describe_scheme
from pipelines.corpus.neardup.presets import NearDuplicates
from pipelines.pin import open_log
from pipelines.tables import QUARANTINE, SIGNATURES
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
    monkeypatch.setattr(arrow_rows, "MOST_HELD_ROWS", 2)
    assert read_few(open_log(path, version=1), SCHEMA).num_rows == 2
    assert read_few(open_log(path), SCHEMA) is None


def test_rows_behind_a_deletion_vector_are_left_to_delta(spark, tmp_path):
    path = str(tmp_path / "quarantine")
    QUARANTINE.append(broken_rows(spark, range(9)), path, fingerprint="a", facts={})
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = true)")
    spark.sql(f"DELETE FROM delta.`{path}` WHERE offset = 1")
    assert read_few(open_log(path), SCHEMA) is None


NAMED = pa.schema([("name", pa.string())])


def test_only_rows_with_the_value_are_read_and_the_limit_is_of_all(tmp_path, monkeypatch):
    path = str(tmp_path / "names")
    write_deltalake(path, pa.table({"name": ["a", "b", "c"], "kind": ["x", "y", "x"]}))
    found = read_few(open_log(path), NAMED, most=3, where={"kind": "x"})
    assert (found.schema, sorted(found["name"].to_pylist())) == (NAMED, ["a", "c"])
    assert read_few(open_log(path), NAMED, where={"kind": "z"}).num_rows == 0
    assert read_few(open_log(path), NAMED, most=2, where={"kind": "x"}) is None
    monkeypatch.setattr(arrow_rows, "MOST_HELD_ROWS", 2)
    assert read_few(open_log(path), NAMED, most=3, where={"kind": "x"}) is None


def test_a_table_of_many_small_files_is_read_and_a_refusal_is_logged_once(tmp_path, monkeypatch, caplog):
    path = str(tmp_path / "names")
    for number in range(201):
        write_deltalake(path, pa.table({"name": [f"{number}"]}), mode="append")
    assert len(open_log(path).list_shards()) == 201
    assert sorted(map(int, read_few(open_log(path), NAMED)["name"].to_pylist())) == list(range(201))
    caplog.set_level("INFO", logger=arrow_rows.__name__)
    for _ in range(2):
        assert read_few(open_log(path), NAMED, most=200) is None
    monkeypatch.setattr(arrow_rows, "MOST_HELD_SHARDS", 200)
    assert read_few(open_log(path), NAMED) is None
    assert [message.partition("because ")[2] for message in caplog.messages] == [
        "it has more than 200 rows",
        "it has more than 200 files, or needs Delta's own reader",
    ]
    assert all(message.startswith(f"{path}: each question") for message in caplog.messages)


def test_signatures_are_held_up_to_a_number_of_buckets(spark, tmp_path, monkeypatch):
    """A row of another scheme counts too: it is read to be left out."""
    path, settings = str(tmp_path / "signatures"), NearDuplicates(preset="sensitive")
    scheme, num_bands = describe_scheme(settings.banding, settings.seed), settings.banding.num_bands
    rows = [
        {
            "content_hash": name,
            "scheme": kind,
            "num_shingles": 9,
            "buckets": list(range(first, first + num_bands)),
        }
        for name, kind, first in (("a", scheme, 0), ("b", "other", 0), ("c", scheme, 5))
    ]
    write_deltalake(path, pa.Table.from_pylist(rows, SIGNATURES.arrow_schema))
    for most, kind in ((3 * num_bands, ArrowRows), (3 * num_bands - 1, SparkRows)):
        monkeypatch.setattr(stored, "MOST_HELD_BUCKETS", most)
        opened = stored.open_signatures(spark, open_log(path), settings)
        assert type(opened) is kind
        for bucket, expected in ((0, ["a"]), (5, ["a", "c"])):
            found = opened.find("buckets", pa.array([bucket]), 3)
            assert sorted(found["content_hash"].to_pylist()) == expected
