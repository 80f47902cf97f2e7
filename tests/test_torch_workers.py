"""Which Python workers Spark gives to tasks that use torch."""

import os
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


def test_torch_keeps_workers_of_its_own(spark):
    others = find_workers(spark, nullcontext())
    first = find_workers(spark, torch_workers(spark))
    assert not first & (others | find_workers(spark, nullcontext()))
    assert first & find_workers(spark, torch_workers(spark))
    assert VARIABLE not in spark.sparkContext.environment
