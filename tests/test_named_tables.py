"""Tables named in a catalog: a Hive metastore in an embedded Derby, in a Spark application of its own."""

import json
import subprocess
import sys

import pytest

from pipelines.catalog import require_session
from pipelines.paths import is_table_name
from tests.processes import CHECKOUT

WORK = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pipelines.catalog import find_location
from pipelines.delta import ContractError, Table
from pipelines.pin import pin, version_of
from pipelines.spark import session
from tests.conftest import TEST_CONF
folder = sys.argv[1]
spark = session("named", {
    **TEST_CONF, "spark.master": "local[2]", "spark.driver.memory": "1g",
    "spark.sql.catalogImplementation": "hive",
    "spark.sql.warehouse.dir": f"file:{folder}/warehouse",
    "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={folder}/metastore;create=true",
    "spark.hadoop.datanucleus.schema.autoCreateAll": "true",
    "spark.hadoop.hive.metastore.schema.verification": "false",
})
spark.sparkContext.setLogLevel("OFF")
spark.sql("CREATE DATABASE lake")
NUMBERS = Table(name="numbers", row="one number", key=("number",), partition_by=("split",),
    checks={"positive": "number > 0"},
    ddl="number INT NOT NULL COMMENT 'counts', split STRING NOT NULL, note STRING")
def rows(*numbers):
    return spark.createDataFrame([(n, "train" if n % 2 else "test", "x") for n in numbers], NUMBERS.schema)
def refused(work, kind=ContractError):
    try:
        work()
    except kind as error:
        return str(error)
name, out = "lake.numbers", {}
out["before"] = [version_of(name), pin(name)]
out["missing"] = refused(lambda: NUMBERS.read(spark, name), FileNotFoundError)
first = NUMBERS.overwrite(rows(1, 2, 3), name, fingerprint="a", facts={"n": 3})
again = NUMBERS.overwrite(rows(9), name, fingerprint="a", facts={})
out["again"] = again == first == pin(name)
out["equal to a path"] = NUMBERS.overwrite(rows(1, 2, 3), f"{folder}/twin", fingerprint="a", facts={}).digest == first.digest
second = NUMBERS.overwrite(rows(4, 5), name, fingerprint="b", facts={})
out["versions"] = [sorted(r.number for r in NUMBERS.read(spark, name, v).collect()) for v in (first.version, None)]
third = NUMBERS.append(rows(5, 6), name, fingerprint="c", facts={})
fourth = NUMBERS.append(rows(7), name, fingerprint="d", facts={})
out["appended"] = [third.num_rows, sorted(r.number for r in NUMBERS.read(spark, name).collect())]
out["repeated"] = NUMBERS.append(rows(5, 6), name, fingerprint="c", facts={}) == third == pin(name, made_from="c")
with ThreadPoolExecutor(2) as pool:
    both = [pool.submit(NUMBERS.append, rows(*n), name, fingerprint=f, facts={}) for f, n in (("e", (8, 9)), ("f", (9, 10)))]
    out["at once"] = sum(each.result().num_rows for each in both)
out["all"] = sorted(r.number for r in NUMBERS.read(spark, name).collect())
out["broken"] = refused(lambda: NUMBERS.append(rows(-1), name, fingerprint="g", facts={}))
detail = spark.sql("DESCRIBE DETAIL lake.numbers").collect()[0]
out["detail"] = [detail.properties["delta.constraints.positive"], detail.partitionColumns, detail.minReaderVersion]
from deltalake import DeltaTable
out["location"] = [find_location(name) == f"{folder}/warehouse/lake.db/numbers", DeltaTable(find_location(name)).version() == version_of(name)]
spark.sql("DELETE FROM lake.numbers WHERE number = 1 OR number = 6")
out["foreign"] = [pin(name).facts["operation"], pin(name, made_from="c") is None]
out["left behind"] = list(__import__("pathlib").Path(f"{folder}/warehouse/_distributary").rglob("*.parquet")) == []
print("RESULT " + json.dumps(out))
spark.stop()
"""


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    ended = subprocess.run(
        [sys.executable, "-c", WORK, str(folder)],
        cwd=CHECKOUT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=540,
        check=False,
    )
    (result,) = [line for line in ended.stdout.splitlines() if line.startswith("RESULT ")] or [None]
    assert result is not None, ended.stdout[-5000:]
    return json.loads(result.removeprefix("RESULT "))


@pytest.mark.slow
def test_a_named_table_is_overwritten_as_a_path_is(named):
    assert named["before"] == [-1, None]
    assert "no numbers table at lake.numbers; run the stage" in named["missing"]
    assert named["again"]
    assert named["equal to a path"]
    assert named["versions"] == [[1, 2, 3], [4, 5]]


@pytest.mark.slow
def test_appends_to_a_named_table_add_keys_once(named):
    assert named["appended"] == [1, [4, 5, 6, 7]]
    assert named["repeated"]
    assert named["at once"] == 3
    assert named["all"] == [4, 5, 6, 7, 8, 9, 10]


@pytest.mark.slow
def test_a_named_table_keeps_contract_location_and_pins(named):
    assert "1 of 1 rows break the constraint positive (number > 0)" in named["broken"]
    assert named["detail"] == ["number > 0", ["split"], 1]
    assert named["location"] == [True, True]
    assert named["foreign"] == ["DELETE", True]
    assert named["left behind"]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("lake.documents", True),
        ("main.lake.documents", True),
        ("documents", False),
        ("a.b.c.d", False),
        ("./lake.documents", False),
        ("s3://lake.documents", False),
        ("/data/lake.documents", False),
        ("hdfs:lake", False),
        ("1.5", False),
    ],
)
def test_a_name_has_dots_and_no_slash(place, expected):
    assert is_table_name(place) is expected


def test_a_name_without_a_session_says_what_to_do(monkeypatch):
    from pyspark.sql import SparkSession

    from pipelines import catalog

    monkeypatch.setattr(SparkSession, "getActiveSession", staticmethod(lambda: None))
    monkeypatch.setattr(catalog, "_start", None)
    with pytest.raises(RuntimeError, match=r"table lake\.x .* no session runs; start one .* give the path"):
        require_session("lake.x")
