"""Tables named in a catalog: a Hive metastore in an embedded Derby, in a Spark application of its own."""

import json
import subprocess
import sys

import pytest

from pipelines.catalog import require_session
from pipelines.paths import is_table_name
from tests.processes import CHECKOUT


@pytest.fixture(scope="module")
def named(tmp_path_factory):
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
def test_writers_of_a_named_table_lose_and_double_nothing(named):
    assert named["mentioned"] == 1
    assert named["after a faster writer"] == [1, None]
    assert named["by path and by name"] == [1, [14, 15]]


@pytest.mark.slow
def test_a_named_table_keeps_contract_location_and_pins(named):
    assert "1 of 1 rows break the constraint positive (number > 0)" in named["broken"]
    assert named["detail"] == ["number > 0", ["split"], 1]
    assert named["location"] == [True, True]
    assert named["foreign"] == ["DELETE", True]
    assert named["left behind"] == []


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
