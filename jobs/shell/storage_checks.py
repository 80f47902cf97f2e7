"""The storage checks of `distributary doctor`: what each client can do below the configured root.

Spark's client is asked only if the root is not local: it needs a JVM, which takes ten seconds to start.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.shell.checks import Check
from jobs.shell.redaction import redact
from pipelines.paths import is_remote, without_credentials

if TYPE_CHECKING:
    from jobs.shell.settings import Settings
    from pipelines.stores_check import Finding

WANTED = "list, read, write, create on a condition, rename, delete"
AS_CLIENT = "PYSPARK_SUBMIT_ARGS='--deploy-mode client pyspark-shell' distributary doctor"


def check_storage(settings: "Settings") -> Iterator[Check]:
    """One check for each client, from this machine."""
    from pipelines.stores import configure
    from pipelines.stores_check import check_store

    if not is_remote(settings.root) and not Path(settings.root).is_dir():
        found = f"{settings.root} does not exist yet; the first stage creates it"
        yield Check(name="storage", status="ok", found=found, wanted=WANTED)
        return
    configure(settings.stores)
    findings = check_store(settings.root)
    yield from (make_check(finding, settings.root) for finding in findings)
    if is_remote(settings.root) and not any(finding.step for finding in findings):
        from pipelines.session_conf import refuse_cluster_mode
        from pipelines.spark import session
        from pipelines.stores_check import check_hadoop
        from pipelines.submit import read_given_conf

        try:
            refuse_cluster_mode({**settings.tree["spark"], **read_given_conf()})
        except ValueError as error:  # usual where spark-submit moves drivers to the cluster; no fault
            found = f"not tried: {str(error).partition(', but')[0]}, and the doctor's driver runs here"
            yield Check(name="storage Hadoop", status="warn", found=found, wanted=WANTED, fix=AS_CLIENT)
            return
        spark = session("distributary doctor", settings.tree["spark"])
        try:
            yield from (make_check(finding, settings.root) for finding in check_hadoop(spark, settings.root))
        finally:
            spark.stop()


def make_check(finding: "Finding", root: str) -> Check:
    """The finding of one client as a line of the doctor's table."""
    name, place = f"storage {finding.client}", f"{without_credentials(root)} on {finding.host}"
    if finding.step:
        found = str(redact(f"{finding.step} failed at {place}: {finding.problem}"))
        return Check(name=name, status="fail", found=found, wanted=WANTED, fix=finding.fix)
    return Check(name=name, status="ok", found=f"{WANTED} work at {place}", wanted=WANTED)
