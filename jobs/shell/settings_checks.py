"""The checks of `distributary doctor` that depend on the configuration: slots for ranks, the MLflow store.

They look at what the stages would use with the same options, and at nothing else: MLflow's own variable
MLFLOW_TRACKING_URI counts only where the configuration refers to it.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jobs.shell.checks import Check, Status, run_python
from jobs.shell.redaction import redact

if TYPE_CHECKING:
    from jobs.shell.settings import Settings

STORE_VARIABLE = "DISTRIBUTARY_CHECKED_STORE"
CONNECT = f"""import os
from pipelines.registry.store import connect
connect(os.environ["{STORE_VARIABLE}"])"""


def count_cores() -> int:
    """CPU threads that this process may use; all of the machine where the system does not say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_slots(settings: "Settings") -> Check:
    """A training with n ranks needs n free slots at the same time. For a cluster, the launch checks it."""
    cores = count_cores()
    try:
        from pipelines.spark import DEFAULT_MASTER
        from pipelines.submit import read_given_conf
    except Exception as error:  # a library is missing or broken
        found, wanted = f"unknown: {error}", "one slot per rank"
        return Check(name="spark slots", status="warn", found=found, wanted=wanted, fix="make setup")
    ranks = settings.tree["finetune"]["num_ranks"]
    settled = {"spark.master": DEFAULT_MASTER, **settings.tree["spark"], **read_given_conf()}
    master = settled.get("spark.remote") or settled["spark.master"]
    wanted = f"one slot for each of finetune.num_ranks={ranks}"
    local = re.fullmatch(r"local(?:\[(\d+|\*)(?:,\s*\d+)?\])?", master)
    if local is None:
        found = f"{master or 'the master of spark-submit'} decides"
        return Check(name="spark slots", status="ok", found=found, wanted=wanted)
    found = f"{master}, {cores} cores here"
    slots = cores if local[1] == "*" else min(cores, int(local[1] or 1))
    if slots < ranks:
        fix = f"finetune.num_ranks={slots}, or a master with {ranks} slots"
        return Check(name="spark slots", status="warn", found=found, wanted=wanted, fix=fix)
    return Check(name="spark slots", status="ok", found=found, wanted=wanted)


def check_spark_settings(settings: "Settings") -> Check:
    """What `spark` of the configuration, the launcher and spark-defaults.conf set does not rule out what the
    stages do. No session is started; the stages refuse the same settings when they start one.

    Cluster mode is a warning: where spark-submit moves the driver to the cluster, spark-defaults.conf sets
    it on every machine, and only a stage that is started without spark-submit is refused.
    """
    name, wanted = "spark settings", "settings that work with this Spark, Hadoop and Delta"
    try:
        from pipelines.session_conf import refuse_cluster_mode, refuse_fast_listing
        from pipelines.submit import read_given_conf
    except Exception as error:  # a library is missing or broken
        return Check(name=name, status="warn", found=f"unknown: {error}", wanted=wanted, fix="make setup")
    settled = {**settings.tree["spark"], **read_given_conf()}
    statuses: dict[Callable[[Mapping[str, str]], None], Status]
    statuses = {refuse_fast_listing: "fail", refuse_cluster_mode: "warn"}
    for refuse, status in statuses.items():
        try:
            refuse(settled)
        except ValueError as error:
            found, _, fix = str(error).partition("; ")
            return Check(name=name, status=status, found=str(redact(found)), wanted=wanted, fix=fix)
    return Check(name=name, status="ok", found=wanted, wanted=wanted)


def check_tracking(settings: "Settings") -> Check:
    """The MLflow store answers, and its database has the schema of the installed MLflow."""
    from pipelines.registry.paths import sqlite_path
    from pipelines.registry.server import require_server

    name, wanted = "mlflow store", "a store that answers, of this MLflow's schema"
    uri = str(settings.tree["tracking"]["uri"])
    shown, file = redact(uri), sqlite_path(uri)
    if file is not None and not file.is_file():
        return Check(name=name, status="ok", found=f"{shown} will be created", wanted=wanted)
    try:
        require_server(uri)
    except ConnectionError as error:
        port = urlsplit(uri).port
        fix = "start the server: mlflow server" + (f" --port {port}" if port else "")
        return Check(name=name, status="fail", found=str(error), wanted=wanted, fix=fix)
    problem = run_python(CONNECT, **{STORE_VARIABLE: uri})  # the URI of a database may hold a password
    if problem:
        upgrade = f"mlflow db upgrade {shown}" if "out-of-date" in problem else "see the error"
        return Check(name=name, status="fail", found=problem, wanted=wanted, fix=upgrade)
    return Check(name=name, status="ok", found=shown, wanted=wanted)
