"""Rows and tables that do not fit their definition."""

import pytest

from pipelines.delta import ContractError, Table
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
