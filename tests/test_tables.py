"""Definitions of tables, digests and fingerprints."""

import json

import pyarrow as pa
import pytest

from pipelines.digest import digest_rows
from pipelines.paths import spark_path
from pipelines.pin import fingerprint
from pipelines.schema import arrow_schema
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES
from tests.small_tables import broken_rows


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
            [("d", "h", text, label, "p", 0.5, "m", 1, "r", 0, 1, None)],
            "doc_id string, content_hash string, text string, label string, "
            "prediction string, score double, model_name string, model_version int, run_id string, "
            "documents_version bigint, num_bytes bigint, problem string",
        )
        nulls = {
            name: PREDICTIONS.schema[name].dataType
            for name in ("embedding", "labels", "reciprocal_rank", "adapter")
        }
        columns = [f"CAST(NULL AS {kind.simpleString()}) AS {name}" for name, kind in nulls.items()]
        return rows.selectExpr("*", *columns, "now() AS scored_at", "rand() AS latency_ms")

    # label sorts before text. xxhash64 skips nulls: one call for all columns gives both rows one hash.
    digests = [PREDICTIONS.digest(prediction(*pair))[0] for pair in (("x", None), ("", "x"), ("x", None))]
    assert digests[0] == digests[2] != digests[1]  # and the scoring time does not count


def test_digest_ignores_the_order_of_map_entries(spark):
    def digest(entries):
        return digest_rows(spark.sql(f"SELECT 1 AS id, {entries} AS entries"), ["id", "entries"])

    assert digest("map('a', 1, 'b', 2)") == digest("map('b', 2, 'a', 1)") != digest("map('a', 2, 'b', 1)")


def test_a_missing_table_names_the_remedy(spark, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no documents table at .*; run the stage that writes it"):
        DOCUMENTS.read(spark, str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "table", [DOCUMENTS, QUARANTINE, SEQUENCES, PREDICTIONS], ids=lambda table: table.name
)
def test_columns_have_comments_and_keys_are_required(table):
    columns = {column.name: column for column in table.schema}
    assert all(column.metadata.get("comment") for column in table.schema)
    assert not any(columns[name].nullable for name in table.key if name not in table.later)
    assert table.schema.names[len(table.schema.names) - len(table.later) :] == list(table.later)


def test_arrow_schema_follows_the_ddl(spark):
    found = arrow_schema(
        "a INT NOT NULL COMMENT 'x', b ARRAY<STRUCT<c: STRING, d: BIGINT>>, e TIMESTAMP, f BINARY"
    )
    assert found.names == ["a", "b", "e", "f"]
    assert (found.field("a").type, found.field("a").nullable) == (pa.int32(), False)
    assert found.field("b").type.value_type == pa.struct([("c", pa.string()), ("d", pa.int64())])
    assert (found.field("e").type, found.field("f").type) == (pa.timestamp("us", tz="UTC"), pa.binary())


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
