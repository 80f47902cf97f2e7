"""The examination of executors: each one answers; what differs from the driver is a problem, and so is a
Python that does not start there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from pipelines.executors import (
    PACKAGES,
    _add_hadoop,
    _blame,
    check_executors,
    estimate_clock_seconds,
    find_problems,
)
from pipelines.probe import measure_free_disk, read_code_digest, read_versions
from tests.processes import SHORT_JVM

CHECKOUT = Path(__file__).resolve().parent.parent
HERE = {"packages": {"torch": "2.13.0+cu130", "horovod": None}, "code": "abc"}
GOOD = {
    "packages": {"torch": "2.13.0", "horovod": "0.28.1"},
    "code": "abc",
    "free_bytes": {"/tmp": 6_000_000_000},
    "clock_seconds": 1.0,
}


def test_an_executor_like_the_driver_has_no_problem():
    assert find_problems(GOOD, HERE) == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"packages": {"torch": None}}, "torch is missing (the driver has 2.13.0+cu130); remedy: make pack"),
        (
            {"packages": {"torch": "2.12.1"}},
            "torch is 2.12.1 (the driver has 2.13.0+cu130); remedy: make pack",
        ),
        ({"code": ""}, "distributary's modules differ: none here, abc on the driver; remedy: make pack"),
        ({"code": "abd"}, "distributary's modules differ: code abd here, abc on the driver"),
        ({"free_bytes": {"/data": 4_900_000_000}}, "/data has 4.9 GB free"),
        ({"clock_seconds": -61.0}, "the clock is -61 s off the driver's"),
        ({"error": "OSError: libcudart.so.13"}, "torch or Horovod cannot be used: OSError: libcudart.so.13"),
        ({"gpus": ["H100"], "horovod": ["gloo"]}, "it has a GPU, but Horovod was built without NCCL"),
        ({"address_error": "OSError: no interface"}, "ranks would have no address: OSError: no interface"),
        (
            {
                "storage": [
                    {"client": "delta-rs", "step": "write a table", "problem": "403", "fix": "correct keys"}
                ]
            },
            "storage: delta-rs failed to write a table: 403; remedy: correct keys",
        ),
    ],
)
def test_each_difference_is_one_problem_with_its_value(changed, problem):
    (found,) = find_problems({**GOOD, **changed}, HERE)
    assert found.startswith(problem)


@pytest.mark.parametrize(("ahead", "estimate"), [(0.0, 0.0), (0.4, 0.0), (90.0, 89.5), (-90.0, -89.5)])
def test_the_clock_differs_at_least_by_what_is_certain(ahead, estimate):
    # On the driver's clock the task ran from 100.5 to 101.5, and the job from 100 to 102.
    answer = {"began_at": 100.5 + ahead, "ended_at": 101.5 + ahead}
    assert estimate_clock_seconds(answer, 100.0, 102.0) == estimate


def test_spark_s_message_becomes_a_report_of_its_executor():
    message = (
        "Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times, most recent failure: "
        "Lost task 0.3 in stage 0.0 (TID 3) (10.0.0.2 executor 1): java.io.IOException: Cannot run program "
        '"/gone/python": error=2, No such file or directory\n\tat java.base/java.lang.ProcessBuilder.start(X)'
    )
    other, failed = _blame(RuntimeError(message), {"1": "10.0.0.2", "0": "10.0.0.1"})  # sorted by host
    assert (failed.executor, failed.host) == ("1", "10.0.0.2")
    assert failed.problems[0].startswith(
        'its Python cannot run tasks: Cannot run program "/gone/python": error=2'
    )
    assert "set spark.pyspark.python" in failed.problems[0]
    assert (other.executor, other.problems) == ("0", ["not examined: another executor failed"])
    with pytest.raises(RuntimeError, match="something else"):
        _blame(RuntimeError("something else"), {})


def test_free_disk_is_that_of_the_nearest_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARK_LOCAL_DIRS", raising=False)
    monkeypatch.delenv("LOCAL_DIRS", raising=False)
    free = measure_free_disk(f"{tmp_path}/not/yet,{tmp_path}/blockmgr-1")
    assert list(free) == [f"{tmp_path}/not/yet", str(tmp_path)]
    assert min(free.values()) > 0


def test_a_local_master_is_examined_as_one_executor(spark):
    (report,) = check_executors(spark)
    assert (report.executor, report.problems) == ("driver", [])
    assert report.facts["packages"] == read_versions(PACKAGES)
    assert report.facts["packages"]["torch"]
    assert report.facts["code"] == read_code_digest() != ""
    assert abs(report.facts["clock_seconds"]) < 1


def test_a_hadoop_job_that_fails_on_the_driver_leaves_the_report(spark, tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    found = {"7": {"host": "here", **GOOD}, "8": {"host": "there", **GOOD, "storage": []}}
    _add_hadoop(spark.sparkContext, found, str(tmp_path / "file"))
    for facts in found.values():
        ((finding,), (problem,)) = facts["storage"], find_problems(facts, HERE)
        assert (finding["client"], finding["host"], finding["step"]) == ("Hadoop", facts["host"], "run")
        assert re.search(r"Mkdirs failed|ot a directory", finding["problem"])
        assert problem.startswith("storage: Hadoop failed to run: ")
        assert "; remedy: see section storage of the configuration; the address is " in problem
        assert facts["packages"] == GOOD["packages"]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["bare", pytest.param("gone", marks=pytest.mark.soak)])
def test_executors_with_another_python_are_named(tmp_path, program):
    # As in tests/process/test_cluster.py: executors write into the folder `work` of SPARK_HOME.
    home = tmp_path / "spark"
    home.mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        (home / part.name).symlink_to(part)
    bare = f"{sys.base_prefix}/bin/python3.{sys.version_info[1]}"  # no packages, and none of our modules
    keys = {
        "spark.master": "local-cluster[2,1,512]",
        "spark.executor.memory": "512m",
        "spark.executor.extraJavaOptions": SHORT_JVM,
        "spark.ui.enabled": "false",
        "spark.executorEnv.PYTHONPATH": "",
        "spark.pyspark.python": bare if program == "bare" else "/gone/python",
    }
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "2.13"}
    command = [
        sys.executable,
        "-m",
        "jobs.shell.cli",
        "doctor",
        "--cluster",
        "--json",
        f"root={tmp_path}/lake",
    ]
    ended = subprocess.run(
        [*command, *(f"{key}={value}" for key, value in keys.items())],
        cwd=CHECKOUT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1, ended.stderr
    answer = json.loads(ended.stdout[ended.stdout.index("{") :])
    assert answer["ok"] is False
    found = [each["executor"] for each in answer["executors"]]
    # On a busy machine, Spark gives the job up before the second executor has registered.
    assert found == ["0", "1"] or (program == "gone" and found in (["0"], ["1"]))
    assert [(each["client"], each["step"]) for each in answer["driver"]] == [
        (client, "") for client in ("Arrow and obstore", "delta-rs", "Hadoop")
    ]
    problems = [" ".join(each["problems"]) for each in answer["executors"]]
    if program == "gone":
        assert any('Cannot run program "/gone/python"' in problem for problem in problems)
    else:
        for each, problem in zip(answer["executors"], problems, strict=True):
            assert each["program"] == bare
            assert "torch is missing (the driver has " in problem
            assert "storage could not be tried: ModuleNotFoundError" in problem  # by Python's clients
            assert [(by["client"], by["host"], by["step"]) for by in each["storage"]] == [
                ("Hadoop", each["host"], "")  # it needs no package of Python
            ]
            assert "torch or Horovod cannot be used: ModuleNotFoundError: No module named 'torch'" in problem
