"""Tables named in a catalog: a Hive metastore in an embedded Derby, in a Spark application of its own."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines import named
from pipelines.catalog import require_session
from pipelines.lease import Lease, LeaseHeldError
from pipelines.paths import is_table_name
from pipelines.storage import Folder
from tests.processes import CHECKOUT


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.named_tables", str(folder)],
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
def test_a_named_table_is_overwritten_as_a_path_is(found):
    assert found["before"] == [-1, None]
    assert "no numbers table at lake.numbers; run the stage" in found["missing"]
    assert found["again"]
    assert found["equal to a path"]
    assert found["versions"] == [[1, 2, 3], [4, 5]]


@pytest.mark.slow
def test_appends_to_a_named_table_add_keys_once(found):
    assert found["appended"] == [1, [4, 5, 6, 7]]
    assert found["repeated"]
    assert found["at once"] == 3
    assert found["all"] == [4, 5, 6, 7, 8, 9, 10]


@pytest.mark.slow
def test_writers_of_a_named_table_lose_and_double_nothing(found):
    assert found["mentioned"] == 1
    assert found["after a faster writer"] == [1, None]
    assert found["by path and by name"] == [1, [14, 15]]


@pytest.mark.slow
def test_a_named_table_keeps_contract_location_and_pins(found):
    assert "1 of 1 rows break the constraint positive (number > 0)" in found["broken"]
    assert found["detail"] == ["number > 0", ["split"], 1]
    assert found["location"] == [True, True]
    assert found["foreign"] == ["DELETE", True]
    assert found["left behind"] == []


def test_drivers_create_a_table_one_after_the_other(spark, tmp_path, monkeypatch):
    """On S3, where Spark would let both of them write its first version."""
    folder, created = f"{tmp_path}/lake/numbers", []

    def create():
        created.append("by us")
        spark.sql("CREATE TABLE created_alone (number INT) USING DELTA")

    def create_alone():
        named.create_alone("default.created_alone", folder, create)

    try:
        with Lease(Folder(f"{tmp_path}/lake/_distributary/numbers")):
            monkeypatch.setattr(named, "CREATE_SECONDS", 0)
            with pytest.raises(LeaseHeldError, match="in use by process"):
                create_alone()
            monkeypatch.undo()
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(create_alone)
                spark.sql("CREATE TABLE created_alone (number INT) USING DELTA")  # by the other driver
                waiting.result(60)
        assert created == []
        spark.sql("DROP TABLE created_alone")
        create_alone()
        create_alone()
        assert created == ["by us"]
    finally:
        spark.sql("DROP TABLE IF EXISTS created_alone")


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
    monkeypatch.setattr(SparkSession, "_instantiatedSession", None)
    monkeypatch.setattr(catalog, "_start", None)
    with pytest.raises(RuntimeError, match=r"table lake\.x .* no session runs; start one .* give the path"):
        require_session("lake.x")
