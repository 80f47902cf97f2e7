"""Delta's jars: Spark's own resolver downloads them into the cache folder once; their checksums are verified.

Only four jars are downloaded. Delta's coordinates resolve to 30, but the other 26 (87 MB) are older copies of
jars that pyspark ships.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import List

from pipelines.machine import DELTA_JARS, cache_folder, find_jar_problems, jars_folder
from tools.lock import lock
from tools.packages import venv_python
from tools.progress import SetupError, run_command

GROUP = "io.delta"
NOT_FETCHED = tuple(
    f"{group}:*" for group in ("org.*", "com.*", "io.unitycatalog*", "io.airlift*", "commons-*", "javax.*")
)
NOT_FETCHED += (f"{GROUP}:delta-kernel-unitycatalog",)


def maven_coordinates(jar: str) -> str:
    """io.delta:delta-storage:4.4.0 for delta-storage-4.4.0.jar."""
    artifact, _, version = jar[: -len(".jar")].rpartition("-")
    return f"{GROUP}:{artifact}:{version}"


def fetch_jars(checkout: Path, *, log: Path) -> None:
    """Put the files of DELTA_JARS into the jars folder. A jar is moved there only after its checksum was
    verified.

    Raises SetupError with the file, its checksum and the remedy.
    """
    with lock("jars"):
        if not find_jar_problems(jars_folder(), DELTA_JARS):
            return
        jars_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="jars-") as scratch:
            folder = Path(scratch)
            _resolve(checkout, list(DELTA_JARS), folder, log=log)
            for name in DELTA_JARS:
                downloaded = folder / "ivy" / "jars" / f"{GROUP}_{name}"
                if downloaded.is_file():
                    downloaded.rename(folder / name)
            problems = find_jar_problems(folder, DELTA_JARS)
            if problems:
                raise SetupError(_describe_problems(problems, log))
            for name in DELTA_JARS:
                (folder / name).replace(jars_folder() / name)


def _resolve(checkout: Path, jars: List[str], folder: Path, *, log: Path) -> None:
    """Run Spark's resolver with an empty home folder, because a ~/.m2 that has POMs without jars makes it
    fail."""
    (folder / "home").mkdir()
    script = folder / "resolved.py"
    script.write_text("print('resolved')\n", encoding="ascii")
    python = venv_python(checkout)
    command = [str(python.with_name("spark-submit")), "--master", "local[1]"]
    command += [
        "--packages",
        ",".join(map(maven_coordinates, jars)),
        "--exclude-packages",
        ",".join(NOT_FETCHED),
    ]
    conf = {
        "jars.ivy": folder / "ivy",
        "ui.enabled": "false",
        "driver.bindAddress": "127.0.0.1",
        "driver.host": "127.0.0.1",
    }
    for name, value in conf.items():
        command += ["--conf", f"spark.{name}={value}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    # The user's own JVM options (a proxy, a trust store) stay. Ours come last, so they win.
    options = f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} -Duser.home={folder / 'home'}".strip()
    env.update(SPARK_SUBMIT_OPTS=options, PYSPARK_PYTHON=str(python))
    run_command([*command, str(script)], doing="downloading Delta's jars", log=log, env=env, cwd=folder)
    shutil.rmtree(folder / "home", ignore_errors=True)


def _describe_problems(problems: List[str], log: Path) -> str:
    lines = ["Delta's jars were not accepted; the cache folder is unchanged:"]
    lines += [f"    {line}" for line in problems]
    lines.append(f"  full log: {log}")
    lines.append(
        "  fix: run the command again; if a checksum differs again, report it and do not change the checksum"
    )
    return "\n".join(lines)
