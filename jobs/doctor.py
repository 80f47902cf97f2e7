"""`distributary doctor`: what is wrong with this machine or set-up, and the command that mends it. Starts no JVM.

Each check stands alone and reports what is absent instead of failing on it, so heavy packages are imported inside the checks.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pipelines.java import SUPPORTED_JAVA, find_java, other_java_home

CHECKOUT = Path(__file__).resolve().parent.parent
MIN_FREE_GB = 5
Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding."""

    name: str
    status: Status
    found: str
    wanted: str
    fix: str = ""
    """What to type; empty where nothing is wrong."""


def check_python() -> Check:
    version = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    fix = "" if fits else "PYTHON=/path/to/python3.11 make setup"
    found = f"{version} ({sys.executable})"
    return Check(name="python", status="ok" if fits else "fail", found=found, wanted="3.11 or 3.12", fix=fix)


def check_java() -> Check:
    """The java that Spark's launcher takes: JAVA_HOME first, then PATH."""
    java, wanted = find_java(), " or ".join(map(str, SUPPORTED_JAVA))
    if not java.problem:
        return Check(name="java", status="ok", found=f"{java.version} ({java.path})", wanted=wanted)
    home = other_java_home()
    fix = f"export JAVA_HOME={home}" if home else "make system"
    return Check(name="java", status="fail", found=java.problem, wanted=wanted, fix=fix)


def check_packages() -> Check:
    """Our direct requirements against what is installed; beside a checkout, its exact pins too."""
    from packaging.requirements import Requirement

    name, wanted, fix = "packages", "the bounds of setup.cfg, the pins of constraints.txt", "make setup"
    try:
        lines = importlib.metadata.requires("distributary") or []
    except importlib.metadata.PackageNotFoundError:
        return Check(name=name, status="fail", found="distributary itself is not installed", wanted=wanted, fix=fix)
    pins, wrong, unlike = _pins(), [], []
    requirements = [line for line in map(Requirement, lines) if line.marker is None or line.marker.evaluate({"extra": ""})]
    for requirement in requirements:
        version = _installed(requirement.name)
        pin = pins.get(_canonical(requirement.name))
        if version is None:
            wrong.append(f"{requirement.name} missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, wanted {requirement.specifier}")
        elif pin and pin != version:
            unlike.append(f"{requirement.name} {version}, tested {pin}")
    if wrong or unlike:
        return Check(name=name, status="fail" if wrong else "warn", found="; ".join(wrong + unlike), wanted=wanted, fix=fix)
    return Check(name=name, status="ok", found=f"{len(requirements)} direct requirements as pinned", wanted=wanted)


def check_jars() -> Check:
    """Delta's jars and their checksums."""
    name, wanted = "delta jars", "the files and sha256 of DELTA_JARS in pipelines/spark.py"
    try:
        from pipelines.spark import DELTA_JARS, jars_folder
    except ImportError as error:
        return Check(name=name, status="fail", found=f"pyspark does not import: {error}", wanted=wanted, fix="make setup")
    wrong = []
    for file, checksum in DELTA_JARS.items():
        jar = jars_folder() / file
        if not jar.is_file():
            wrong.append(f"{file} missing")
        elif (actual := sha256(jar.read_bytes()).hexdigest()) != checksum:
            wrong.append(f"{file} has sha256 {actual[:12]}..., pinned {checksum[:12]}...")
    if wrong:
        return Check(name=name, status="fail", found=f"in {jars_folder()}: " + "; ".join(wrong), wanted=wanted, fix="make setup")
    return Check(name=name, status="ok", found=f"{len(DELTA_JARS)} jars in {jars_folder()}", wanted=wanted)


def check_horovod() -> Check:
    """Horovod is compiled against one torch: the version it recorded must be the installed one, and its library must load."""
    name, fix = "horovod", "make setup"
    torch = _installed("torch")
    wanted = f"built for torch {torch}" if torch else "torch, and a build for it"
    if torch is None:
        return Check(name=name, status="fail", found="torch is not installed", wanted=wanted, fix=fix)
    if _installed("horovod") is None:
        found = "not installed; one process trains with strategy: single"
        return Check(name=name, status="warn", found=found, wanted=wanted, fix=fix)
    package = Path(str(importlib.metadata.distribution("horovod").locate_file("horovod")))
    try:
        built = str(json.loads((package / "metadata.json").read_text(encoding="utf-8"))["pytorch"])
    except (OSError, ValueError, KeyError) as error:
        return Check(name=name, status="fail", found=f"its record of the build is unreadable: {error}", wanted=wanted, fix=fix)
    if built.split("+")[0] != torch.split("+")[0]:
        return Check(name=name, status="fail", found=f"built for torch {built}", wanted=wanted, fix=fix)
    problem = _import_problem("horovod.torch")
    if problem:
        return Check(name=name, status="fail", found=problem, wanted=wanted, fix=fix)
    return Check(name=name, status="ok", found=f"{_installed('horovod')} built for torch {built}", wanted=wanted)


def check_slots() -> Check:
    """Training with n ranks needs n free slots at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = re.search(r"--master[ =](\S+)", os.environ.get("PYSPARK_SUBMIT_ARGS", ""))
    master = os.environ.get("SPARK_MASTER") or os.environ.get("MASTER") or (named.group(1) if named else "")
    if master and not master.startswith("local"):
        return Check(name="spark slots", status="ok", found=f"{master} decides (local: {cores} cores)", wanted="one slot a rank")
    found = f"{cores} cores here" + (f", master {master}" if master else "")
    if cores < 2:
        fix = "set finetune ranks to 1, or give a cluster's master"
        return Check(name="spark slots", status="warn", found=found, wanted="2 for the demo's two ranks", fix=fix)
    return Check(name="spark slots", status="ok", found=found, wanted="one slot a rank")


def check_disk() -> Check:
    """Room for tables, checkpoints and Spark's shuffle files."""
    places = {"here": Path.cwd(), "temporary files": Path(os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or "/tmp")}  # noqa: S108
    free = {what: shutil.disk_usage(place).free / 1e9 for what, place in places.items() if place.exists()}
    found = ", ".join(f"{gigabytes:.0f} GB {what}" for what, gigabytes in free.items())
    if min(free.values()) < MIN_FREE_GB:
        fix = "make room, or set SPARK_LOCAL_DIRS to a larger disk"
        return Check(name="disk", status="warn", found=found, wanted=f"{MIN_FREE_GB} GB free", fix=fix)
    return Check(name="disk", status="ok", found=found, wanted=f"{MIN_FREE_GB} GB free")


def check_cache() -> Check:
    """Where set-up keeps what it fetched and built."""
    wanted = "a folder of yours"
    try:
        from pipelines.spark import cache_folder
    except ImportError:
        return Check(name="cache folder", status="warn", found="unknown without pyspark", wanted=wanted, fix="make setup")
    folder = cache_folder()
    if not folder.is_dir():
        return Check(name="cache folder", status="warn", found=f"{folder} does not exist", wanted=wanted, fix="make setup")
    if not os.access(folder, os.W_OK):
        fix = "DISTRIBUTARY_CACHE=/another/folder make setup"
        return Check(name="cache folder", status="warn", found=f"{folder} is read-only", wanted=wanted, fix=fix)
    return Check(name="cache folder", status="ok", found=str(folder), wanted=wanted)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python, check_java, check_packages, check_jars, check_horovod, check_slots, check_disk, check_cache,
)  # fmt: skip


def examine() -> Iterator[Check]:
    """All checks in order; one that breaks is itself a finding."""
    for check in CHECKS:
        try:
            yield check()
        except Exception as error:  # the doctor must not die of what it looks for
            name = check.__name__.removeprefix("check_").replace("_", " ")
            found = f"the check itself failed: {type(error).__name__}: {error}"
            yield Check(name=name, status="fail", found=found, wanted="an answer", fix="make setup")


def doctor(as_json: bool) -> int:
    """Print every finding, as a table or as JSON; 0 unless a check failed, then 1."""
    findings = list(examine())
    failed = any(check.status == "fail" for check in findings)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in findings]}, indent=2, ensure_ascii=False))
    else:
        _print_table(findings)
    return int(failed)


def _print_table(findings: list[Check]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        for check in findings:
            print(f"{check.name:14} {check.status:5} {check.found}" + (f"; fix: {check.fix}" if check.fix else ""))
        return

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, pad_edge=False)
    for heading in ("check", "", "found", "fix"):
        table.add_column(heading, overflow="fold")
    for check in findings:
        found = check.found if check.status == "ok" else f"{check.found} (wanted: {check.wanted})"
        table.add_row(check.name, Text(check.status, style=colours[check.status]), Text(found), Text(check.fix))
    Console().print(table)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _pins() -> dict[str, str]:
    """Package -> version of constraints.txt; empty where distributary was installed without a checkout."""
    file = CHECKOUT / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pinned = (line.split("#")[0].partition("==") for line in lines)
    return {_canonical(name.strip()): version.split(";")[0].strip() for name, mark, version in pinned if mark}


def _import_problem(module: str) -> str:
    """Why a module does not import, asked of a fresh Python: a broken library may end the process. Empty = it does."""
    answer = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=120)
    lines = answer.stderr.strip().splitlines()
    return "" if answer.returncode == 0 else f"import {module}: {lines[-1] if lines else f'status {answer.returncode}'}"


if __name__ == "__main__":  # works where even the command line's own packages are missing
    sys.exit(doctor("--json" in sys.argv[1:]))
