"""Rows and tables that do not fit their definition."""

from pathlib import Path

import pytest

from pipelines.delta import ContractError, Table
from pipelines.held import first_repeated_key, hold_rows
from pipelines.pin import pin
from pipelines.tables import QUARANTINE
from tests.small_tables import PARTITIONED, broken_rows, numbers


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "quarantine")


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


def many_rows(spark, num_rows, *more):
    """Rows in three tasks, `more` in one of their own."""
    rows = spark.range(0, num_rows, 1, 3).selectExpr(
        "'s' AS source", "'f' AS file", "id AS offset", "1L AS line", "'r' AS reason", "NULL AS raw"
    )
    rows = rows.withColumn("raw", rows["raw"].cast("binary"))
    return rows.union(broken_rows(spark, more)) if more else rows


@pytest.mark.parametrize("place", ["driver", "tasks", "tasks of a server"])
def test_one_repeated_key_among_many_tasks_is_refused(spark, path, place, monkeypatch):
    monkeypatch.setattr("pipelines.held.RANGE_KEYS", 4_000 if place == "tasks" else 10**6)
    if place == "tasks of a server":  # a client that cannot read their files; a real one is in tests/connect
        monkeypatch.setattr("pipelines.held.is_connect", lambda session: True)
        monkeypatch.delattr("pipelines.held.find_repeated")
    repeated = r"quarantine: 1 of 20,001 rows repeat a key .* first .*'offset': 12345"
    with pytest.raises(ContractError, match=repeated):
        QUARANTINE.overwrite(many_rows(spark, 20_000, 12_345), path, fingerprint="a", facts={})
    assert not list(Path(path).rglob("*.*"))
    assert QUARANTINE.overwrite(many_rows(spark, 20_000), path, fingerprint="a", facts={}).num_rows == 20_000
    assert not list(Path(path).rglob("*.keys"))


def test_a_doubled_table_is_counted_row_by_row(spark, path):
    rows = many_rows(spark, 5_000)
    with pytest.raises(ContractError, match=r"5,000 of 10,000 rows repeat a key .* first .*'offset': 0}"):
        QUARANTINE.overwrite(rows.union(rows), path, fingerprint="a", facts={})


def test_two_keys_with_one_hash_are_accepted(spark, path):
    with hold_rows(broken_rows(spark, [1, 2]), path, QUARANTINE._definition) as held:
        (suspect,) = {held.rows.selectExpr("xxhash64(source, file, offset) AS h").first().h}
        assert first_repeated_key(held, QUARANTINE.key, [suspect]) is None


def test_delta_enforces_the_constraints(spark, path):
    QUARANTINE.overwrite(broken_rows(spark, [1]), path, fingerprint="a", facts={})
    with pytest.raises(Exception, match=r"DELTA_VIOLATE_CONSTRAINT|violated"):
        spark.sql(f"INSERT INTO delta.`{path}` VALUES ('s', 'f', -5, 1, 'r', null)")
    with pytest.raises(Exception, match=r"DELTA_NOT_NULL|violated"):
        spark.sql(f"INSERT INTO delta.`{path}` VALUES ('s', 'f', 5, 1, null, null)")


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


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"ddl": "number BIGINT NOT NULL, split STRING NOT NULL, seen MAP<STRING, INT>"}, r"number bigint"),
        (
            {"ddl": "number INT NOT NULL, split STRING NOT NULL, seen MAP<STRING, INT> NOT NULL"},
            "seen .* not",
        ),
        ({"partition_by": ()}, r"partitions of an earlier Distributary \(none\)"),
    ],
)
def test_a_table_of_other_types_is_refused(spark, path, changes, difference):
    earlier = Table(**{**PARTITIONED.__dict__, **changes})
    earlier.overwrite(spark.createDataFrame([], earlier.schema), path, fingerprint="a", facts={})
    with pytest.raises(ContractError, match=rf"parts at .*{difference}.*; delete or move the table"):
        PARTITIONED.overwrite(numbers(spark, (1, "train")), path, fingerprint="b", facts={})
    assert pin(path).fingerprint == "a"
