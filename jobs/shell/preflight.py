"""What must work before a command starts on hours of work: storage, tracking server, slots and packages.

Each fault is an error within 15 seconds, plus finetune.wait_for_slots_seconds where executors come late.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from jobs.shell.exits import Exit, PreflightError
from jobs.shell.progress import show_progress
from jobs.shell.settings import Section, Settings
from jobs.shell.stage import Work
from pipelines.connect import is_connect
from pipelines.finetune.parallel.rules import choose_collectives
from pipelines.paths import is_remote
from pipelines.stores import Stores, configure

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BEFORE_RANKS = ("corpus", "dataset", "finetune", "search")
"""If one of these has work to do, the command will train."""
MASTER_SECONDS = 3.0
USE_TRACKING = {"finetune", "registry", "scoring"}
DATA_PACKAGES = ("pyarrow", "numpy", "tokenizers")
MODEL_PACKAGES = ("torch", "transformers", "safetensors")
RANK_PACKAGES = ("deltalake",)
MAX_SHOWN = 8


def probe_services(settings: Settings, stages: Iterable[str], stores: Stores) -> None:
    """Set how this process reaches storage, and look whether it and the tracking server answer.

    Raises OSError with the remedy within 15 s; the stages themselves would wait for minutes. Storage is asked
    if root is not a local path, the server if one of the stages needs it.
    """
    configure(stores)
    if is_remote(settings.root):
        with show_progress("storage"):
            from pipelines.stores_check import require_reachable

            require_reachable(settings.root)
    if USE_TRACKING & set(stages):
        from pipelines.registry.server import require_server

        require_server(str(settings.tree["tracking"]["uri"]))
    _start_for_yarn(settings.tree["spark"])


def _start_for_yarn(conf: Mapping[str, str]) -> None:
    """Start Spark at once if YARN runs this driver on the cluster.

    YARN waits 100 s for it (spark.yarn.am.waitTime), and a driver that never starts it counts as failed:
    also one that finds nothing to do.
    """
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # else pyspark need not be imported
        from pipelines.submit import is_driver_on_yarn

        if is_driver_on_yarn():
            from pipelines.spark import session

            session("distributary", conf)


def require_spark_master(master: str) -> None:
    """Raise PreflightError if `master` names standalone masters (spark://HOST:PORT,...) and none answers.

    Spark itself would try for a minute. The addresses of YARN and Kubernetes stand in their own files.
    """
    if not master.startswith("spark://"):
        return
    why = ""
    for place in master.removeprefix("spark://").split(","):
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=MASTER_SECONDS).close()
            return
        except (OSError, ValueError) as error:
            why = str(error)
    raise PreflightError(
        f"no Spark master answers at {master} ({why}); start it, or correct spark.master", Exit.RETRY
    )


class Preflight:
    """The checks before the first stage of a command that has work to do; later stages pass at once."""

    def __init__(self, configs: Mapping[str, Section], root: str | None, stack: ExitStack) -> None:
        """`root` given: this command runs all stages, so no second one may run there until `stack` ends."""
        self._configs, self._root, self._stack = configs, root, stack
        self._is_done = False

    def __call__(self, work: Work[Any]) -> None:
        if self._is_done:
            return
        self._is_done = True
        if self._root is not None:
            self._hold_root(self._root, work)
        if work.needs_spark:
            self._check_master(work)
            self._open_store()
            ranks = self._configs.get("finetune") if work.stage in BEFORE_RANKS else None
            self._check_cluster(work, ranks)

    def _check_master(self, work: Work[Any]) -> None:
        from pipelines.submit import read_given_conf

        require_spark_master({**work.conf, **read_given_conf()}.get("spark.master", ""))

    def _open_store(self) -> None:
        """Load MLflow and open its store while Spark starts, in this thread: later that would take as long
        and Spark would wait. (Two threads that import the same packages could meet half a module.)
        """
        config = next((self._configs[stage] for stage in self._configs if stage in USE_TRACKING), None)
        if config is not None:
            from pipelines.registry.store import connect

            connect(config.tracking.uri, config.tracking.artifacts)

    def _hold_root(self, root: str, work: Work[Any]) -> None:
        """Keep other runs out; wait for one that may be dead.

        Raises LeaseHeldError as soon as it is known to live.
        """
        from pipelines.lease import Lease, LeaseHeldError
        from pipelines.storage import Folder

        seen: float | None = None
        while True:
            try:
                self._stack.enter_context(Lease(Folder(root) / "run"))
                return
            except LeaseHeldError as held:
                if held.is_local or (seen is not None and held.renewed_at != seen):
                    raise
                if seen is None:
                    work.progress.phase(f"waiting: {held}")
                seen = held.renewed_at
            time.sleep(1.0)

    def _check_cluster(self, work: Work[Any], ranks: Any) -> None:
        """Slots for the ranks, and packages on every executor of a cluster."""
        if ranks is not None:
            from pipelines.finetune.launch.slots import require_slots

            try:
                require_slots(
                    work.spark,
                    ranks.num_ranks,
                    gpus_per_rank=ranks.gpus_per_rank,
                    wait_seconds=ranks.wait_for_slots_seconds,
                )
            except ValueError as error:
                # A cluster may have more slots later.
                status = Exit.CONFIGURATION if _is_one_machine(work.spark) else Exit.RETRY
                raise PreflightError(str(error), status) from error
        if not is_connect(work.spark) and not _is_one_machine(work.spark):
            work.progress.phase("looking at the executors")
            require_packages(work.spark, self._list_packages(ranks), work.progress.print)

    def _list_packages(self, ranks: Any) -> list[str]:
        packages = list(DATA_PACKAGES)
        if USE_TRACKING & set(self._configs):
            packages += MODEL_PACKAGES
        if ranks is not None:
            packages += RANK_PACKAGES
            if ranks.model.adapter.kind is not None:
                packages.append("peft")
            carrier = choose_collectives(ranks.strategy, ranks.collectives)
            if ranks.num_ranks > 1 and carrier == "horovod":
                packages.append("horovod")
            if ranks.system_metrics:
                packages.append("psutil")
        return packages


def require_packages(spark: "SparkSession", packages: Sequence[str], warn: Callable[[str], None]) -> None:
    """Raise ImportError that names the hosts whose executors lack a package or have another version of it.

    Other findings, such as a full disk, are given to `warn`.
    """
    from pipelines.executors import NOT_EXAMINED, check_executors, find_problems
    from pipelines.probe import read_versions

    expected = read_versions(packages)
    faults = []
    for report in check_executors(spark):
        if not report.facts:
            problems = [problem for problem in report.problems if problem != NOT_EXAMINED]
            faults += [f"{report.host}: {problem}" for problem in problems]
            continue
        # Only packages, and whether our code is there at all: a zip of --py-files has no digest of its files.
        here = {"packages": expected, "code": report.facts["code"]}
        healthy = {**report.facts, "free_bytes": {}, "clock_seconds": 0.0}
        found = (
            find_problems(healthy, here) if report.facts["code"] else ["distributary's modules are missing"]
        )
        faults += [f"{report.host}: {problem}" for problem in found]
        found = find_problems({**report.facts, "packages": expected}, here)
        for problem in found if not faults else ():
            warn(f"{report.host}: {problem}")
    if faults:
        different = list(dict.fromkeys(faults))
        shown = "; ".join(different[:MAX_SHOWN])
        more = f"; and {len(different) - MAX_SHOWN} more" if len(different) > MAX_SHOWN else ""
        raise ImportError(f"executors cannot run the stages: {shown}{more}")


def _is_one_machine(spark: "SparkSession") -> bool:
    """Whether the executors run in the driver's own environment."""
    master = str(spark.conf.get("spark.master", ""))
    return master == "local" or master.startswith("local[")
