"""Python workers of tasks that use torch, apart from the workers of other tasks.

Spark keeps an idle Python worker for a minute, and gives a task the one that has waited longest. To import
torch takes a core some seconds. After a training, its workers have done that, but scoring would get those of
the stages before. Spark shares workers among functions with equal environment variables only, so a variable
keeps the two kinds apart.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from pyspark.sql import SparkSession

from pipelines.connect import is_connect

VARIABLE = "DISTRIBUTARY_WORKERS"
_making = Lock()
"""Spark copies the environment variables into each function. Trials of a search start in threads of their
own: none may change the variables under the copy of another one, or take them back before it."""


@contextmanager
def torch_workers(spark: SparkSession) -> Iterator[None]:
    """Functions for Spark that are made inside the context run in workers that such functions share.

    One thread at a time. Over Spark Connect, the server makes the functions, and all share their workers.
    """
    if is_connect(spark):
        yield
        return
    variables = spark.sparkContext.environment
    with _making:
        variables[VARIABLE] = "torch"
        try:
            yield
        finally:
            variables.pop(VARIABLE, None)
