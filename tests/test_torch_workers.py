"""Which Python workers Spark gives to tasks that use torch."""

import os
import threading
from contextlib import nullcontext

import pyarrow as pa

from pipelines.torch_workers import VARIABLE, torch_workers


def find_workers(spark, context):
    """Process ids of the workers of two tasks, whose function is made in the context."""

    def identify(batches):
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"pid": pa.array([os.getpid()], pa.int64())})

    with context:
        rows = spark.range(0, 2, 1, 2).mapInArrow(identify, "pid BIGINT")
    return {row.pid for row in rows.collect()}


def test_one_thread_at_a_time_makes_functions(spark):
    """Else the first to end takes the variable from the others, or changes it while Spark copies it."""
    variables, inside = spark.sparkContext.environment, threading.Event()
    seen = []

    def make():
        with torch_workers(spark):
            inside.set()
            seen.append(variables.get(VARIABLE))

    other = threading.Thread(target=make)
    with torch_workers(spark):
        other.start()
        assert not inside.wait(0.3)
    other.join(60)
    assert seen == ["torch"]
    assert VARIABLE not in variables


def test_torch_keeps_workers_of_its_own(spark):
    others = find_workers(spark, nullcontext())
    first = find_workers(spark, torch_workers(spark))
    assert not first & (others | find_workers(spark, nullcontext()))
    assert first & find_workers(spark, torch_workers(spark))
    assert VARIABLE not in spark.sparkContext.environment
