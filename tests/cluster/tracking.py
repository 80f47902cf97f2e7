"""A tracking server as a team runs it: MLflow on PostgreSQL, with artifacts in a bucket of its own.

Drivers talk to the server alone (`--serve-artifacts`): they need neither boto3 nor the keys of its bucket.
The server's own packages (tracking-server.txt) lie in a folder of their own, because botocore needs another
python-dateutil than the environment of the checkout has.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.cluster.hosts import DISK, Daemon, Host
from tools.cluster_parts import find_postgres, packages_folder

USER = "nobody"
"""PostgreSQL refuses to run as root."""


def find_missing_part() -> str | None:
    """What this machine lacks to run the server, with the remedy; None = nothing."""
    if find_postgres() is None:
        return "the tracking server needs PostgreSQL; run: make cluster-parts"
    if not packages_folder().is_dir():
        return f"the tracking server's packages are not in {packages_folder()}; run: make cluster-parts"
    return None


class TrackingServer:
    """PostgreSQL and MLflow on one host."""

    def __init__(self, host: Host, folder: Path, *, s3: str, artifacts: str) -> None:
        programs = find_postgres()
        assert programs is not None
        self.uri, self._host, self._programs = f"http://{host.address}:5000", host, programs
        self.database = Daemon(
            host,
            "postgres",
            as_user(
                str(programs / "postgres"), "-D", f"{DISK}/postgres", "-h", "127.0.0.1", "-k", f"{DISK}/tmp"
            ),
            folder=folder,
            is_ready=lambda daemon: "database system is ready" in daemon.output(),
        )
        store = ["--backend-store-uri", "postgresql+psycopg2://mlflow@127.0.0.1:5432/postgres"]
        place = ["--serve-artifacts", "--artifacts-destination", artifacts]
        self.server = Daemon(
            host,
            "mlflow",
            [sys.executable, "-m", "mlflow", "server", *store, *place, "--workers", "1"]
            + ["--host", host.address, "--port", "5000", "--allowed-hosts", f"{host.address}:5000"],
            folder=folder,
            environment={
                "PYTHONPATH": str(packages_folder()),
                "MLFLOW_S3_ENDPOINT_URL": s3,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # five processes that nothing here needs
                "AWS_ACCESS_KEY_ID": "tracking",
                "AWS_SECRET_ACCESS_KEY": "tracking",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
            is_ready=lambda daemon: "Application startup complete" in daemon.output(),
        )

    def start(self) -> None:
        subprocess.run(["chown", USER, self._host.behind / "tmp"], check=True)
        data = self._host.behind / "postgres"
        data.mkdir(mode=0o700)
        shutil.chown(data, USER)
        # Only processes of this host reach the database, so no password is needed.
        self._host.run(
            *as_user(
                str(self._programs / "initdb"), "-D", f"{DISK}/postgres", "-U", "mlflow", "-A", "trust", "-N"
            )
        )
        self.database.start()
        self.server.start()


def as_user(*words: str) -> list[str]:
    """Words that run a command as USER."""
    return ["setpriv", "--reuid", USER, "--clear-groups", *words]
