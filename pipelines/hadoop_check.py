"""Does Spark's Hadoop client work on every executor? Tasks write, rename and read files in the storage, and
Spark's own record of its tasks says on which executor one failed, and why.

Python's clients are tried inside tasks (`stores_check.check_store`). A task of Python does not reach the JVM
of its executor, so Hadoop's client is tried by jobs that use it: one that saves files, whose committer
renames them, and one that reads them.
"""

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.paths import split_scheme
from pipelines.stores import current
from pipelines.stores_check import Finding, describe_error, find_fix, hadoop_conf, hadoop_path

if TYPE_CHECKING:
    from pyspark import RDD, SparkContext

CLIENT = "Hadoop"
MAPRED = "org.apache.hadoop.mapred"
WRITE, READ = "write and rename", "read"
Outcomes = dict[str, str]
"""Executor -> why a task failed there; empty = its tasks succeeded."""


def check_hadoop_on_executors(
    context: "SparkContext", path: str, *, num_tasks: int, hold_seconds: float
) -> dict[str, Finding]:
    """Executor -> what Spark's Hadoop client could do below `path` there. Leaves nothing behind.

    `num_tasks` tasks hold their slots for `hold_seconds` each, so that every executor gets one; an executor
    that got none is missing in the answer. Raises the error of a job that failed in no task.
    """
    scratch = f"{hadoop_path(path).rstrip('/')}/.check-{uuid.uuid4().hex}"
    files = f"{scratch}/files"  # Hadoop reads no folder whose name starts with a dot
    conf = hadoop_conf(replace(current(), patience_seconds=0))
    # Clients of an executor are kept: with one that the executor has, these settings would not count.
    conf[f"fs.{split_scheme(scratch)[0]}.impl.disable.cache"] = "true"

    def hold(value: Any) -> Any:
        time.sleep(hold_seconds)
        return value

    def write() -> None:
        pairs = context.parallelize(range(num_tasks), num_tasks).map(lambda number: (str(number), "x"))
        pairs.map(hold).saveAsHadoopFile(files, f"{MAPRED}.TextOutputFormat", conf=conf)

    def read() -> None:
        types = "org.apache.hadoop.io.LongWritable", "org.apache.hadoop.io.Text"
        lines: RDD[Any] = context.hadoopFile(files, f"{MAPRED}.TextInputFormat", *types, conf=conf)
        lines.map(hold).count()

    findings: dict[str, Finding] = {}
    try:
        for step, job in ((WRITE, write), (READ, read)):
            for executor, problem in _run(context, job).items():
                if executor not in findings or not findings[executor].step:
                    findings[executor] = _describe(step, executor, problem, path)
            if any(finding.step for finding in findings.values()):
                break  # what was not written cannot be read
    finally:
        with suppress(Exception):  # it must not replace the findings
            _delete(context, scratch)
    return findings


def _run(context: "SparkContext", job: Callable[[], None]) -> Outcomes:
    """What became of the tasks of a job, by executor."""
    group = f"hadoop-check-{uuid.uuid4().hex}"
    context.setJobGroup(group, "distributary doctor: Hadoop's client on every executor")
    failure: Exception | None = None
    try:
        job()
    except Exception as error:
        failure = error
    finally:
        context._jsc.clearJobGroup()
    outcomes: Outcomes = {}
    for executor, problem in list_tasks(context, group):
        outcomes[executor] = outcomes.get(executor) or problem
    if failure is not None and not any(outcomes.values()):
        raise failure
    return outcomes


def list_tasks(context: "SparkContext", group: str) -> list[tuple[str, str]]:
    """(executor, error) of each attempt of a task in the last job of a group; the error is empty if it
    succeeded.

    Before files are saved, Spark may run a job in the same group that only looks at the types of the rows:
    its tasks reach no storage.
    """
    scala = context._jsc.sc()
    with suppress(Exception):  # of a bus that is busy for 10 s; an executor without a task is tried again
        scala.listenerBus().waitUntilEmpty()  # the store hears of tasks from it, after the driver does
    tracker, store = context.statusTracker(), scala.statusStore()
    last = max(tracker.getJobIdsForGroup(group), default=None)
    job = None if last is None else tracker.getJobInfo(last)
    tasks = []
    for stage in job.stageIds if job else ():
        with suppress(Exception):  # a stage that never started has no attempt
            attempt = store.lastStageAttempt(stage).attemptId()
            rows = store.taskList(stage, attempt, 1 << 20)
            tasks += [rows.apply(number) for number in range(rows.size())]
    return [
        (task.executorId(), _read_error(task)) for task in tasks if task.status() in ("SUCCESS", "FAILED")
    ]


def _read_error(task: Any) -> str:
    if task.status() == "SUCCESS":
        return ""
    return str(task.errorMessage().get()) if task.errorMessage().isDefined() else "a task failed"


def _describe(step: str, executor: str, problem: str, path: str) -> Finding:
    if not problem:
        return Finding(client=CLIENT, host=executor, step="")
    cause = describe_error(RuntimeError(problem.partition("\n\tat ")[0]))
    return Finding(client=CLIENT, host=executor, step=step, problem=cause, fix=find_fix(problem, path))


def _delete(context: "SparkContext", folder: str) -> None:
    assert context._jvm is not None, "the context runs"
    target = context._jvm.org.apache.hadoop.fs.Path(folder)
    target.getFileSystem(context._jsc.hadoopConfiguration()).delete(target, True)
