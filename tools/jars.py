"""Delta's jars, fetched once by Spark's own resolver into the cache and verified; sessions never resolve anything.

Only the four that Spark lacks, of the 30 that Delta's coordinates resolve to: the other 26 are older copies of what pyspark ships
(87 MB).
"""

from __future__ import annotations

import ast
import os
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List

from tools.cache import cache_folder, lock, sha256
from tools.packages import venv_python
from tools.progress import SetupError, run

GROUP = "io.delta"
NOT_FETCHED = tuple(
    f"{group}:*" for group in ("org.*", "com.*", "io.unitycatalog*", "io.airlift*", "commons-*", "javax.*")
)
NOT_FETCHED += (f"{GROUP}:delta-kernel-unitycatalog",)


def table(checkout: Path) -> Dict[str, str]:
    """File name -> sha256: DELTA_JARS of pipelines/spark.py, read without importing it (no pyspark needed)."""
    tree = ast.parse((checkout / "pipelines" / "spark.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if not isinstance(node, (ast.AnnAssign, ast.Assign)) or node.value is None:
            continue
        targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
        if any(isinstance(name, ast.Name) and name.id == "DELTA_JARS" for name in targets):
            return dict(ast.literal_eval(node.value))
    raise SetupError("pipelines/spark.py has no DELTA_JARS table")


def jars_folder() -> Path:
    """Where sessions look for them."""
    return cache_folder() / "jars"


def problems(folder: Path, checksums: Dict[str, str]) -> List[str]:
    """What is wrong with the jars of a folder: one line each, empty = all there and all as pinned."""
    found = []
    for name, wanted in checksums.items():
        jar = folder / name
        if not jar.is_file():
            found.append(f"{name} is not in {folder}")
        elif sha256(jar) != wanted:
            found.append(f"{jar} has sha256 {sha256(jar)}, pinned is {wanted}")
    return found


def coordinates(name: str) -> str:
    """io.delta:delta-storage:4.4.0 for delta-storage-4.4.0.jar."""
    artifact, _, version = name[: -len(".jar")].rpartition("-")
    return f"{GROUP}:{artifact}:{version}"


def fetch(checkout: Path, *, log: Path) -> None:
    """Put the jars into the cache folder, each moved there whole and only after its checksum agreed.

    Raises SetupError naming file, checksum and remedy.
    """
    checksums = table(checkout)
    with lock("jars"):
        if not problems(jars_folder(), checksums):
            return
        jars_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="jars-") as scratch:
            folder = Path(scratch)
            _resolve(checkout, list(checksums), folder, log=log)
            for name in checksums:
                came = folder / "ivy" / "jars" / f"{GROUP}_{name}"
                if came.is_file():
                    came.rename(folder / name)
            wrong = problems(folder, checksums)
            if wrong:
                raise SetupError(_refusal(wrong, log))
            for name in checksums:
                (folder / name).replace(jars_folder() / name)


def _resolve(checkout: Path, names: List[str], folder: Path, *, log: Path) -> None:
    """Run Spark's resolver. Its home is an empty folder: a ~/.m2 that holds POMs without jars makes it fail."""
    (folder / "home").mkdir()
    script = folder / "resolved.py"
    script.write_text("print('resolved')\n", encoding="ascii")
    python = venv_python(checkout)
    command = [str(python.with_name("spark-submit")), "--master", "local[1]"]
    command += ["--packages", ",".join(map(coordinates, names)), "--exclude-packages", ",".join(NOT_FETCHED)]
    conf = {
        "jars.ivy": folder / "ivy",
        "ui.enabled": "false",
        "driver.bindAddress": "127.0.0.1",
        "driver.host": "127.0.0.1",
    }
    for name, value in conf.items():
        command += ["--conf", f"spark.{name}={value}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    # The user's own options (a proxy, a trust store) stay, ours come last and win.
    options = f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} -Duser.home={folder / 'home'}".strip()
    env.update(SPARK_SUBMIT_OPTS=options, PYSPARK_PYTHON=str(python))
    run([*command, str(script)], doing="fetching Delta's jars", log=log, env=env, cwd=folder)
    shutil.rmtree(folder / "home", ignore_errors=True)


def _refusal(wrong: List[str], log: Path) -> str:
    lines = ["Delta's jars are refused, nothing was put into the cache:", *(f"    {line}" for line in wrong)]
    lines += [
        f"  whole log: {log}",
        "  fix: run it again; a checksum that differs again is to be reported, not overridden",
    ]
    return "\n".join(lines)
