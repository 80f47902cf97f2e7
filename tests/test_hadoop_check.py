"""What Spark's own record of its tasks says about Hadoop's client on executors. Real stores are in
tests/servers."""

import pytest

from pipelines.hadoop_check import READ, WRITE, _describe, _run, check_hadoop_on_executors


def test_each_executor_writes_and_reads_and_nothing_is_left(spark, tmp_path):
    found = check_hadoop_on_executors(spark.sparkContext, str(tmp_path), num_tasks=2, hold_seconds=0.0)
    assert {name: (each.client, each.step, each.problem) for name, each in found.items()} == {
        "driver": ("Hadoop", "", "")  # a local master has no other executor
    }
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_fails_is_told_of_its_executor(spark):
    context = spark.sparkContext

    def fail(number):
        raise OSError(f"no route to the store from task {number}")

    outcomes = _run(context, lambda: context.parallelize([7], 1).foreach(fail))
    (problem,) = outcomes.values()
    assert list(outcomes) == ["driver"]
    assert "no route to the store from task 7" in problem


def test_a_failure_names_client_step_and_remedy():
    problem = "java.net.ConnectException: Call From a to b:8020 failed: Connection refused\n\tat java.base/x"
    finding = _describe(WRITE, "7", problem, "s3a://lake/x")
    assert (finding.client, finding.host, finding.step) == ("Hadoop", "7", "write and rename")
    assert finding.problem.endswith("Connection refused")
    assert "start the storage, or correct its address" in finding.fix
    assert _describe(READ, "driver", "", "s3a://lake/x").step == ""


def test_a_job_that_fails_in_no_task_raises_its_error(spark, tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(Exception, match=r"Mkdirs failed|ParentNotDirectory|Not a directory|not a directory"):
        check_hadoop_on_executors(spark.sparkContext, str(tmp_path / "file"), num_tasks=1, hold_seconds=0.0)
