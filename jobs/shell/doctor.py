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

from jobs.shell.loading import show_loading
from pipelines.machine import SUPPORTED_JAVA, find_java, other_java_home

CHECKOUT = Path(__file__).resolve().parents[2]
MIN_FREE_GB = 5
SHOWN = 8
"""Packages named, of those that are not as they should be."""
ANEW = "rm -r .venv, then make setup"
"""For a damaged library: a set-up compares names and versions, and would find nothing to do."""
LOAD_ALL = f"import sys; sys.path.append({str(CHECKOUT)!r}); from jobs.shell.loading import load_everything; load_everything()"
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
    """What we need, directly or through others; beside a checkout also the demo's model and every pin of constraints.txt."""
    name, wanted, fix = "packages", "the bounds of setup.cfg, the pins of constraints.txt", "make setup"
    lacking = [package for package in ("distributary", "packaging") if _installed(package) is None]
    if lacking:
        return Check(
            name=name, status="fail", found=f"{' and '.join(lacking)} missing", wanted=wanted, fix=fix
        )
    from jobs.shell.requirements import installed, pins, unlike, unmet

    there, pinned = installed(), pins(CHECKOUT / "constraints.txt")
    wrong = unmet(there)
    odd = unlike(there, pinned) | (unmet(there, extra="demo") if pinned else {})
    lines = [*wrong.values(), *(line for package, line in odd.items() if package not in wrong)]
    if lines:
        found = "; ".join(lines[:SHOWN]) + (f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")
        return Check(name=name, status="fail" if wrong else "warn", found=found, wanted=wanted, fix=fix)
    found = f"{len(there)} packages, none missing" + (" or other than pinned" if pinned else "")
    return Check(name=name, status="ok", found=found, wanted=wanted)


def check_imports() -> Check:
    """Everything that the stages import does load, in a fresh Python."""
    problem = _problem(LOAD_ALL)
    if problem:
        return Check(name="imports", status="fail", found=problem, wanted="every stage loads", fix=ANEW)
    return Check(name="imports", status="ok", found="every stage loads", wanted="every stage loads")


def check_jars() -> Check:
    """Delta's jars and their checksums."""
    name, wanted = "delta jars", "the files and sha256 of DELTA_JARS in pipelines/spark.py"
    try:
        from pipelines.spark import DELTA_JARS, jars_folder
    except Exception as error:  # missing or broken
        return Check(
            name=name,
            status="fail",
            found=f"pyspark does not import: {error}",
            wanted=wanted,
            fix="make setup",
        )
    wrong = []
    for file, checksum in DELTA_JARS.items():
        jar = jars_folder() / file
        if not jar.is_file():
            wrong.append(f"{file} missing")
        elif (actual := sha256(jar.read_bytes()).hexdigest()) != checksum:
            wrong.append(f"{file} has sha256 {actual[:12]}..., pinned {checksum[:12]}...")
    if wrong:
        return Check(
            name=name,
            status="fail",
            found=f"in {jars_folder()}: " + "; ".join(wrong),
            wanted=wanted,
            fix="make setup",
        )
    return Check(name=name, status="ok", found=f"{len(DELTA_JARS)} jars in {jars_folder()}", wanted=wanted)


def check_horovod() -> Check:
    """Horovod is compiled against one torch: the version it recorded must be the installed one, and its library must load."""
    name, fix = "horovod", "make setup"
    torch = _installed("torch")
    wanted = f"built for torch {torch}" if torch else "torch, and a build for it"
    if torch is None:
        return Check(name=name, status="fail", found="torch is not installed", wanted=wanted, fix=fix)
    if _installed("horovod") is None:
        found = "not installed; one process trains with finetune.num_ranks=1"
        return Check(name=name, status="warn", found=found, wanted=wanted, fix=fix)
    package = Path(str(importlib.metadata.distribution("horovod").locate_file("horovod")))
    try:
        built = str(json.loads((package / "metadata.json").read_text(encoding="utf-8"))["pytorch"])
    except (OSError, ValueError, KeyError) as error:
        return Check(
            name=name,
            status="fail",
            found=f"its record of the build is unreadable: {error}",
            wanted=wanted,
            fix=fix,
        )
    if built.split("+")[0] != torch.split("+")[0]:
        return Check(name=name, status="fail", found=f"built for torch {built}", wanted=wanted, fix=fix)
    problem = _problem("import horovod.torch")
    if problem:
        return Check(name=name, status="fail", found=problem, wanted=wanted, fix=ANEW)
    return Check(
        name=name, status="ok", found=f"{_installed('horovod')} built for torch {built}", wanted=wanted
    )


def check_slots() -> Check:
    """Training with n ranks needs n free slots at once; how many a cluster has, the launch itself asks."""
    name, cores = (
        "spark slots",
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )
    try:
        from jobs.shell.settings import load
        from pipelines.spark import DEFAULT_MASTER, _given_conf
    except Exception as error:  # missing or broken
        return Check(
            name=name, status="warn", found=f"unknown: {error}", wanted="one slot a rank", fix="make setup"
        )
    tree = load().tree
    ranks = tree["finetune"]["num_ranks"]
    master = {"spark.master": DEFAULT_MASTER, **tree["spark"], **_given_conf()}["spark.master"]
    found, wanted = f"{master}, {cores} cores here", f"a slot for each of finetune.num_ranks={ranks}"
    local = re.fullmatch(r"local(?:\[(\d+|\*)(?:,\s*\d+)?\])?", master)
    able = min(cores, int(local[1] or 1) if local[1] != "*" else cores) if local else ranks
    if able < ranks:
        fix = f"finetune.num_ranks={able}, or a master with {ranks} slots"
        return Check(name=name, status="warn", found=found, wanted=wanted, fix=fix)
    return Check(name=name, status="ok", found=found if local else f"{master} decides", wanted=wanted)


def check_disk() -> Check:
    """Room for tables, checkpoints and Spark's shuffle files."""
    places = {
        "here": Path.cwd(),
        "temporary files": Path(os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or "/tmp"),  # noqa: S108
    }
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
        from pipelines.storage import cache_folder
    except Exception:  # missing or broken
        return Check(
            name="cache folder",
            status="warn",
            found="unknown without pyspark",
            wanted=wanted,
            fix="make setup",
        )
    folder = cache_folder()
    if not folder.is_dir():
        return Check(
            name="cache folder",
            status="warn",
            found=f"{folder} does not exist",
            wanted=wanted,
            fix="make setup",
        )
    if not os.access(folder, os.W_OK):
        fix = "DISTRIBUTARY_CACHE=/another/folder make setup"
        return Check(
            name="cache folder", status="warn", found=f"{folder} is read-only", wanted=wanted, fix=fix
        )
    return Check(name="cache folder", status="ok", found=str(folder), wanted=wanted)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python, check_java, check_packages, check_imports, check_jars, check_horovod, check_slots, check_disk, check_cache,
)  # fmt: skip


def examine() -> Iterator[Check]:
    """All checks in order; one that breaks is itself a finding."""
    for check in CHECKS:
        try:
            yield check()
        except (Exception, SystemExit) as error:  # the doctor must not die of what it looks for
            name = check.__name__.removeprefix("check_").replace("_", " ")
            found = f"the check itself failed: {type(error).__name__}: {error}"
            yield Check(name=name, status="fail", found=found, wanted="an answer", fix="make setup")


def doctor(as_json: bool) -> int:
    """Print every finding, as a table or as JSON; 0 unless a check failed, then 1."""
    with show_loading("the libraries, to see whether they do"):
        findings = list(examine())
    failed = any(check.status == "fail" for check in findings)
    if as_json:
        print(
            json.dumps(
                {"ok": not failed, "checks": [asdict(check) for check in findings]},
                indent=2,
                ensure_ascii=False,
            )
        )
    else:
        _print_table(findings)
    return int(failed)


def _print_table(findings: list[Check]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except Exception:  # missing or broken
        for check in findings:
            print(
                f"{check.name:14} {check.status:5} {check.found}"
                + (f"; fix: {check.fix}" if check.fix else "")
            )
        return

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, pad_edge=False)
    for heading in ("check", "", "found", "fix"):
        table.add_column(heading, overflow="fold")
    for check in findings:
        found = check.found if check.status == "ok" else f"{check.found} (wanted: {check.wanted})"
        table.add_row(
            check.name, Text(check.status, style=colours[check.status]), Text(found), Text(check.fix)
        )
    Console().print(table)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _problem(code: str) -> str:
    """What a fresh Python says last when it fails at `code`: a broken library may end the process. Empty = it does not fail."""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    lines = answer.stderr.strip().splitlines()
    return (
        ""
        if answer.returncode == 0
        else lines[-1]
        if lines
        else f"{code} ends with status {answer.returncode}"
    )


if __name__ == "__main__":  # works where even the command line's own packages are missing
    sys.exit(doctor("--json" in sys.argv[1:]))
