"""Examine every executor of an application: Python, packages, our code, disk, memory, clock, and, if asked,
what torch and Horovod say there.

Spark has no way to send a task to a named executor. As many tasks as there are slots are started at once, and
each holds its slot for a moment, until every executor that the driver knows has answered.
"""

import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

from pyspark import SparkContext, TaskContext, cloudpickle
from pyspark.sql import SparkSession

from pipelines import probe
from pipelines.hadoop_check import CLIENT, check_hadoop_on_executors
from pipelines.stores_check import Finding, describe_error, find_fix

logger = logging.getLogger(__name__)

PACKAGES = (
    "distributary",
    "deltalake",
    "pyarrow",
    "numpy",
    "pandas",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "huggingface-hub",
    "mlflow",
    "horovod",
    "cloudpickle",
    "psutil",
    "pydantic",
)
"""Packages that tasks and ranks import. Their versions must be those of the driver."""
MIN_FREE_BYTES = 5_000_000_000
MAX_CLOCK_SECONDS = 60.0
"""S3 refuses requests that are 15 minutes off, Kerberos 5; leases are stale after minutes."""
HOLD_SECONDS = 0.7
HADOOP_ATTEMPTS = 3  # until each executor has got a task
NOT_EXAMINED = "not examined: another executor failed"
WAIT_SECONDS = 10.0
MIN_ROUNDS = 3
"""Jobs until each executor has answered: on a busy machine, the first one may take all of the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorReport:
    """What was found on one executor."""

    executor: str
    """Spark's id of it."""
    host: str
    """Spark's name of its machine."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What `probe.look` and `probe.look_deeper` found, and clock_seconds; empty if it did not answer."""
    problems: list[str] = field(default_factory=list)
    """One line for each problem, with its remedy."""


def check_executors(
    spark: SparkSession,
    *,
    deeper: bool = False,
    storage: Callable[[], Sequence[Any]] | None = None,
    root: str | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> list[ExecutorReport]:
    """One report per executor, sorted by host and id. A local master is one executor, `driver`.

    deeper: also import torch and Horovod on each executor (10 to 60 s), and call `storage` there, which gives
    findings of `stores_check.check_store` (through `stores.carry`); with a `root`, Spark's Hadoop client is
    tried below it, too. wait_seconds: how long to wait for executors that have not registered yet
    (spark.executor.instances) or do not answer.

    Raises ValueError over Spark Connect, RuntimeError if no executor registers.
    """
    context = getattr(spark, "_sc", None)
    if context is None:
        raise ValueError(
            "over Spark Connect a client does not see the executors; run the examination where the driver "
            "runs, with a master in place of spark.remote"
        )
    known = _wait_for_executors(context, wait_seconds)
    local_dirs = str(context.getConf().get("spark.local.dir", "/tmp"))  # noqa: S108  # Spark's default
    looking = partial(probe.look, PACKAGES, local_dirs, HOLD_SECONDS)
    here = {"packages": probe.read_versions(PACKAGES), "code": probe.read_code_digest()}
    found: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + wait_seconds
    for number in count(1):
        began_at = time.time()
        try:
            answers = _run_everywhere(context, known, looking)
        except Exception as error:  # Python does not start there, or another version of it
            return _blame(error, known)
        ended_at = time.time()
        for answer in answers:
            off = estimate_clock_seconds(answer, began_at, ended_at)
            found.setdefault(answer["executor"], {**answer, "clock_seconds": off})
        known = _list_executors(context) | {name: answer["host"] for name, answer in found.items()}
        if set(known) <= set(found) or (number >= MIN_ROUNDS and time.monotonic() > deadline):
            break
    if deeper:
        for answer in _look_deeper(context, known, storage):
            found.setdefault(answer["executor"], {}).update(answer)
        if root is not None:
            _add_hadoop(context, found, root)
    silent = "it did not run a task; it is busy with another job, or its Python does not start: see its log"
    return [
        ExecutorReport(
            executor=name,
            host=host,
            facts=found.get(name, {}),
            problems=find_problems(found[name], here) if name in found else [silent],
        )
        for name, host in sorted(known.items(), key=lambda pair: (pair[1], pair[0]))
    ]


def find_problems(facts: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What is wrong on an executor, by what was found there and on the driver (packages, code)."""
    problems = []
    for package, expected in here["packages"].items():
        version = facts["packages"].get(package)
        if version is None and expected is not None:
            problems.append(f"{package} is missing (the driver has {expected})")
        elif version is not None and expected is not None and _public(version) != _public(expected):
            problems.append(f"{package} is {version} (the driver has {expected})")
    if facts["code"] != here["code"]:
        other = f"code {facts['code']}" if facts["code"] else "none"
        problems.append(f"distributary's modules differ: {other} here, {here['code']} on the driver")
    if problems:
        problems[-1] += "; remedy: make pack, and submit with --archives"
    for folder, free in facts["free_bytes"].items():
        if free < MIN_FREE_BYTES:
            problems.append(
                f"{folder} has {free / 1e9:.1f} GB free; Spark's shuffle files and shards need more"
            )
    if abs(facts["clock_seconds"]) > MAX_CLOCK_SECONDS:
        problems.append(f"the clock is {facts['clock_seconds']:+.0f} s off the driver's; remedy: NTP there")
    if facts.get("error"):
        problems.append(f"torch or Horovod cannot be used: {facts['error']}")
    if facts.get("gpus") and "nccl" not in facts.get("horovod", ["nccl"]):
        problems.append("it has a GPU, but Horovod was built without NCCL: build the wheel for GPUs")
    for finding in facts.get("storage", ()):
        if finding["step"]:
            problems.append(
                f"storage: {finding['client']} failed to {finding['step']}: {finding['problem']}; "
                f"remedy: {finding['fix']}"
            )
    if facts.get("storage_error"):
        problems.append(f"storage could not be tried: {facts['storage_error']}")
    if facts.get("address_error"):
        problems.append(f"ranks would have no address: {facts['address_error']}")
    return problems


def estimate_clock_seconds(answer: dict[str, Any], began_at: float, ended_at: float) -> float:
    """How far an executor's clock is ahead of the driver's, at least; 0 if too close to see.

    The task ran between `began_at` and `ended_at` of the driver's clock, so the difference is at least
    ended_at of the task - ended_at, and at most began_at of the task - began_at.
    """
    least, most = answer["ended_at"] - ended_at, answer["began_at"] - began_at
    return float(least if least > 0 else most if most < 0 else 0.0)


def _look_deeper(
    context: SparkContext, known: dict[str, str], storage: Callable[[], Sequence[Any]] | None
) -> list[dict[str, Any]]:
    token, peers = uuid.uuid4().hex[:12], sorted(set(known.values()))
    pickled = None if storage is None else cloudpickle.dumps(storage)
    look = partial(probe.look_deeper, token, peers, pickled, HOLD_SECONDS)
    answers = _run_everywhere(context, known, look)
    return [answer for answer in answers if answer is not None]


def _add_hadoop(context: SparkContext, found: dict[str, dict[str, Any]], root: str) -> None:
    """Add what Spark's Hadoop client can do on each executor to the findings about its storage.

    A job that fails on no executor (its committer fails on the driver, Spark gives it up) is a finding of
    each executor that is not known yet: what else was found on them stays.
    """
    findings: dict[str, Finding] = {}
    missing = Finding(client=CLIENT, host="", step="run", problem="no task ran there", fix="run it again")
    for _ in range(HADOOP_ATTEMPTS):
        try:
            tried = check_hadoop_on_executors(
                context, root, num_tasks=_count_tasks(context, len(found)), hold_seconds=HOLD_SECONDS
            )
        except Exception as error:
            problem = describe_error(error)
            missing = replace(missing, problem=problem, fix=find_fix(problem, root))
            break
        findings = {**tried, **findings}
        if set(found) <= set(findings) or any(finding.step for finding in findings.values()):
            break
    for executor, facts in found.items():
        finding = replace(findings.get(executor, missing), host=facts.get("host", executor))
        facts.setdefault("storage", []).append(asdict(finding))


def _count_tasks(context: SparkContext, num_executors: int) -> int:
    """One for each slot of the cluster."""
    scala = context._jsc.sc()
    profile = scala.resourceProfileManager().defaultResourceProfile()
    return max(int(scala.maxNumConcurrentTasks(profile)), num_executors, 1)


def _run_everywhere(
    context: SparkContext, known: dict[str, str], work: Callable[[dict[str, list[str]]], Any]
) -> list[Any]:
    """Results of `work(GPUs of the task by resource)`, run once in each slot of the cluster."""
    num_tasks = _count_tasks(context, len(known))

    def run(_: int) -> Any:
        task = TaskContext.get()
        resources = task.resources() if task else {}
        return work({name: list(found.addresses) for name, found in resources.items()})

    # By value: an executor may not have our modules, which is one of the things to find out.
    cloudpickle.register_pickle_by_value(probe)
    try:
        return list(context.parallelize(range(num_tasks), num_tasks).map(run).collect())
    finally:
        cloudpickle.unregister_pickle_by_value(probe)


def _list_executors(context: SparkContext) -> dict[str, str]:
    """Executors that are registered now: id -> host name. Empty with a local master."""
    summaries = context._jsc.sc().statusStore().executorList(True)
    rows = [summaries.apply(number) for number in range(summaries.size())]
    # Spark also lists executors of which it has heard nothing yet but their id.
    return {
        row.id(): row.hostPort().rpartition(":")[0] for row in rows if row.id() != "driver" and row.hostPort()
    }


def _wait_for_executors(context: SparkContext, wait_seconds: float) -> dict[str, str]:
    """The executors, when as many as spark.executor.instances (at least one) have registered, or after
    `wait_seconds`."""
    master = str(context.master)
    if master.startswith("local") and not master.startswith("local-cluster"):
        return {}
    wanted = int(context.getConf().get("spark.executor.instances", "1") or 1)
    deadline = time.monotonic() + wait_seconds
    while len(known := _list_executors(context)) < wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    if not known:
        raise RuntimeError(
            f"{master} gave no executor within {wait_seconds:g} s; see the cluster's page for free cores and "
            "memory, or wait longer"
        )
    if len(known) < wanted:
        logger.warning("%d of %d executors have registered after %g s", len(known), wanted, wait_seconds)
    return known


def _blame(error: Exception, known: dict[str, str]) -> list[ExecutorReport]:
    """Reports from a job that Spark gave up: the executor whose task failed, and why."""
    text = str(error)
    where = re.search(r"Lost task \S+ in stage \S+ \(TID \d+\) \((\S+) executor (\w+)\): ", text)
    if where is None:
        raise error
    python = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception|MISMATCH)\S*.*)$", text, re.MULTILINE)
    program = re.search(r'Cannot run program "([^"]+)".*', text)
    reason = program[0] if program else (python[0] if python else text[where.end() :].splitlines()[0])
    remedy = "set spark.pyspark.python to a Python that it has, or make pack and submit with --archives"
    problem = f"its Python cannot run tasks: {reason}; remedy: {remedy}"
    failed = ExecutorReport(executor=where[2], host=where[1], problems=[problem])
    others = [
        ExecutorReport(executor=name, host=host, problems=[NOT_EXAMINED])
        for name, host in known.items()
        if name != where[2]
    ]
    return sorted([failed, *others], key=lambda report: (report.host, report.executor))


def _public(version: str) -> str:
    """2.13.0 for 2.13.0+cu130: builds of one version for other hardware may be mixed."""
    return version.partition("+")[0]
