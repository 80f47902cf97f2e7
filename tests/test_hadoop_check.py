"""What Spark's own record of its tasks says about Hadoop's client on executors. Real stores are in
tests/servers."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyspark.java_gateway import ensure_callback_server_started

from pipelines.hadoop_check import READ, WRITE, _describe, _run, check_hadoop_on_executors, list_tasks
from tests.processes import wait_until


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


def run_in_a_group(context, *jobs):
    """The jobs in one group of Spark; returns its name."""
    group = f"tests-{uuid.uuid4().hex}"
    context.setJobGroup(group, "tests")
    try:
        for job in jobs:
            job()
    finally:
        context._jsc.clearJobGroup()
    return group


def test_a_job_that_looks_at_types_is_no_sign_of_the_storage(spark, tmp_path):
    context, pairs = spark.sparkContext, spark.sparkContext.parallelize([("a", "x"), ("b", "y")], 2)
    text = "org.apache.hadoop.mapred.TextOutputFormat"
    group = run_in_a_group(context, lambda: pairs.saveAsHadoopFile(f"{tmp_path}/files", text))
    wait_until(lambda: len(context.statusTracker().getJobIdsForGroup(group)) >= 2)
    assert list_tasks(context, group) == [("driver", "")] * 2


class SlowListener:
    """Keeps the events of a job from Spark's store until it is released."""

    def __init__(self, identify):
        self.released, self.identify = threading.Event(), identify

    def invoke(self, proxy, method, arguments):
        if method.getName() == "equals":  # asked when the listener is removed
            return self.identify(proxy) == self.identify(arguments[0])
        if method.getName() == "onTaskStart":
            self.released.wait(60)
        return None

    class Java:
        implements = ("java.lang.reflect.InvocationHandler",)


def test_tasks_that_the_store_has_not_heard_of_are_waited_for(spark):
    context = spark.sparkContext
    ensure_callback_server_started(context._gateway)
    bus, java = context._jsc.sc().listenerBus(), context._jvm.java
    slow = SlowListener(java.lang.System.identityHashCode)
    loader = bus.getClass().getClassLoader()
    kinds = context._gateway.new_array(java.lang.Class, 1)
    kinds[0] = java.lang.Class.forName("org.apache.spark.scheduler.SparkListenerInterface", True, loader)
    listener = java.lang.reflect.Proxy.newProxyInstance(loader, kinds, slow)
    bus.addToQueue(listener, "appStatus")
    try:
        group = run_in_a_group(context, context.parallelize(range(3), 3).count)
        with ThreadPoolExecutor(1) as pool:
            listed = pool.submit(list_tasks, context, group)
            with pytest.raises(TimeoutError):  # the job is done, and the store has none of its tasks
                listed.result(1)
            slow.released.set()
            assert listed.result(60) == [("driver", "")] * 3
    finally:
        slow.released.set()
        bus.removeListener(listener)
