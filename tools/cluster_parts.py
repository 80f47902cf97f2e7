"""What the tests of a cluster need beside the set-up: programs, jars of servers, packages of MLflow's server.

MLflow's server has a folder of packages of its own, because botocore needs another python-dateutil than
constraints.txt has.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import List, Optional

from pipelines.machine import cache_folder
from tools.jars import fetch_jars
from tools.lock import lock
from tools.packages import find_uv, install
from tools.progress import SetupError
from tools.system import Part
from tools.system_install import install_parts

CHECKOUT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).with_name("tracking-server.txt")


def find_postgres() -> Optional[Path]:
    """The folder of PostgreSQL's programs, which Debian puts beside no others; None = not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def packages_folder() -> Path:
    """Where the packages of MLflow's server lie. Another list of packages has another folder."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    return cache_folder() / f"tracking-server-{digest}"


def find_missing_programs() -> List[Part]:
    """The programs that this machine lacks."""
    missing = []
    if not shutil.which("ip"):
        missing.append(Part("ip", "", "no ip on PATH", ("iproute2",), ("iproute",)))
    if find_postgres() is None:
        missing.append(Part("PostgreSQL", "", "no postgres", ("postgresql",), ("postgresql-server",)))
    return missing


def install_packages(*, log: Path) -> None:
    """Fill the packages folder, once. It appears when it is complete."""
    folder = packages_folder()
    with lock("tracking-server"):
        if folder.is_dir():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="tracking-server-") as scratch:
            target = Path(scratch) / "packages"
            arguments = ["--no-deps", "--target", str(target), "--requirement", str(REQUIREMENTS)]
            install(CHECKOUT, arguments, doing="installing MLflow's server", uv=find_uv(log=log), log=log)
            target.rename(folder)


def main() -> int:
    """Install what is missing. Exit status: 0 = all parts are there, 1 = not (the reason was printed)."""
    log = cache_folder() / "logs" / "cluster-parts.log"
    try:
        missing = find_missing_programs()
        if missing:
            install_parts(missing, log=log)
        for group in ("s3", "servers", "kafka"):
            fetch_jars(CHECKOUT, group, log=log)
        install_packages(log=log)
    except SetupError as error:
        print(f"set-up stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
