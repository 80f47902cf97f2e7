"""The checks of `distributary doctor`: one function per part of the machine or the installation. No check
starts a JVM.

A check reports a missing package instead of failing on it, so heavy packages are imported inside the checks.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines import machine

CHECKOUT = Path(__file__).resolve().parents[2]
MIN_FREE_GB = 5
MAX_NAMED = 8
"""Packages named in a finding; the others are counted."""
PLATFORM_EXTRA = "local"
"""The extra of distributary with what a platform may bring itself: Spark, Delta, torch, MLflow."""
REINSTALL = "rm -r .venv, then make setup"
"""For a damaged library: `make setup` alone compares names and versions, and would find nothing to do."""
Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding."""

    name: str
    status: Status
    found: str
    wanted: str
    fix: str = ""
    """The command that fixes the problem; empty if there is none."""


def check_python() -> Check:
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    found = f"{platform.python_version()} ({sys.executable})"
    if fits:
        return Check(name="python", status="ok", found=found, wanted="3.11 or 3.12")
    fix = "PYTHON=/path/to/python3.11 make setup"
    return Check(name="python", status="fail", found=found, wanted="3.11 or 3.12", fix=fix)


def check_java() -> Check:
    """The java that Spark's launcher starts: JAVA_HOME first, then PATH."""
    java, wanted = machine.find_java(), " or ".join(map(str, machine.SUPPORTED_JAVA))
    if not java.problem:
        return Check(name="java", status="ok", found=f"{java.version} ({java.path})", wanted=wanted)
    home = machine.find_other_java_home()
    fix = f"export JAVA_HOME={home}" if home else "make system"
    return Check(name="java", status="fail", found=java.problem, wanted=wanted, fix=fix)


def check_packages() -> Check:
    """The packages that distributary needs, with their own needs; in a checkout also the demo's model and the
    pins."""
    name, wanted, fix = "packages", "the bounds of setup.cfg, the pins of constraints.txt", "make setup"
    absent = [package for package in ("distributary", "packaging") if installed_version(package) is None]
    if absent:
        found = f"{' and '.join(absent)} missing"
        return Check(name=name, status="fail", found=found, wanted=wanted, fix=fix)

    from jobs.shell.requirements import find_distributions, find_unmet  # needs `packaging`

    distributions = find_distributions()
    pins = machine.read_pins(CHECKOUT / "constraints.txt")
    broken = find_unmet(distributions)
    platform_lines = find_unmet(distributions, extra=PLATFORM_EXTRA)
    # A platform such as Databricks brings these; one of an untested version may work, a missing one cannot.
    absent_lines = {package: line for package, line in platform_lines.items() if package not in distributions}
    broken = absent_lines | broken
    # A cluster may lack the test tools, so a pinned package that is not installed is no problem here.
    versions = {package: {found.version} for package, found in distributions.items()}
    different = machine.find_pin_problems(versions, {name: pins[name] for name in pins if name in versions})
    different |= platform_lines
    if pins:
        different |= find_unmet(distributions, extra="demo")
    lines = [*broken.values(), *(line for package, line in different.items() if package not in broken)]
    if lines:
        found = "; ".join(lines[:MAX_NAMED])
        if len(lines) > MAX_NAMED:
            found += f"; and {len(lines) - MAX_NAMED} more"
        return Check(name=name, status="fail" if broken else "warn", found=found, wanted=wanted, fix=fix)
    found = f"{len(distributions)} packages, none missing" + (" or different from its pin" if pins else "")
    return Check(name=name, status="ok", found=found, wanted=wanted)


def check_jars() -> Check:
    """Delta's jars and their checksums."""
    name, wanted = "delta jars", "the files and sha256 of DELTA_JARS in pipelines/machine.py"
    problems = machine.find_jar_problems(machine.jars_folder(), machine.DELTA_JARS)
    if problems:
        return Check(name=name, status="fail", found="; ".join(problems), wanted=wanted, fix="make setup")
    found = f"{len(machine.DELTA_JARS)} jars in {machine.jars_folder()}"
    return Check(name=name, status="ok", found=found, wanted=wanted)


def check_horovod() -> Check:
    """Horovod was built for the installed torch, and its library can be loaded."""
    name, fix, torch = "horovod", "make setup", installed_version("torch")
    if torch is None:
        wanted = "torch, and a build for it"
        return Check(name=name, status="fail", found="torch is not installed", wanted=wanted, fix=fix)
    wanted = f"built for torch {torch}"
    if installed_version("horovod") is None:
        found = "not installed; one process can train with finetune.num_ranks=1"
        return Check(name=name, status="warn", found=found, wanted=wanted, fix=fix)
    record = Path(str(importlib.metadata.distribution("horovod").locate_file("horovod/metadata.json")))
    try:
        built_for = str(json.loads(record.read_text(encoding="utf-8"))["pytorch"])
    except (OSError, ValueError, KeyError) as error:
        found = f"its build record cannot be read: {error}"
        return Check(name=name, status="fail", found=found, wanted=wanted, fix=fix)
    if built_for.split("+")[0] != torch.split("+")[0]:
        return Check(name=name, status="fail", found=f"built for torch {built_for}", wanted=wanted, fix=fix)
    problem = run_python("import horovod.torch")
    if problem:
        return Check(name=name, status="fail", found=problem, wanted=wanted, fix=REINSTALL)
    libraries = record.parent.glob("torch/mpi_lib_v2*.so")
    with_nccl = any(b"ncclCommInitRank" in library.read_bytes() for library in libraries)
    tensors = "with NCCL" if with_nccl else "without NCCL: tensors of several ranks travel through Gloo (CPU)"
    found = f"{installed_version('horovod')} built for torch {built_for}, {tensors}"
    return Check(name=name, status="ok", found=found, wanted=wanted)


def check_disk() -> Check:
    """Free space for tables, checkpoints and Spark's shuffle files."""
    scratch = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or "/tmp"  # noqa: S108
    places = {"here": Path.cwd(), "temporary files": Path(scratch)}
    free = {what: shutil.disk_usage(place).free / 1e9 for what, place in places.items() if place.exists()}
    found = ", ".join(f"{gigabytes:.0f} GB {what}" for what, gigabytes in free.items())
    if min(free.values()) < MIN_FREE_GB:
        fix = "free some disk space, or set SPARK_LOCAL_DIRS to a larger disk"
        return Check(name="disk", status="warn", found=found, wanted=f"{MIN_FREE_GB} GB free", fix=fix)
    return Check(name="disk", status="ok", found=found, wanted=f"{MIN_FREE_GB} GB free")


def check_cache() -> Check:
    """The folder where the set-up keeps what it downloaded and built."""
    name, wanted, folder = "cache folder", "a folder that you can write to", machine.cache_folder()
    if not folder.is_dir():
        found = f"{folder} does not exist"
        return Check(name=name, status="warn", found=found, wanted=wanted, fix="make setup")
    if not os.access(folder, os.W_OK):
        fix = "DISTRIBUTARY_CACHE=/another/folder make setup"
        return Check(name=name, status="warn", found=f"{folder} is read-only", wanted=wanted, fix=fix)
    return Check(name=name, status="ok", found=str(folder), wanted=wanted)


def installed_version(package: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def run_python(code: str, **variables: str) -> str:
    """Run `code` in a new Python: a broken library can end its process.

    The last line of its error; empty if it succeeds. `variables` are added to its environment: every user of
    the machine can read the command line, but not these.
    """
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **variables},
    )
    if answer.returncode == 0:
        return ""
    lines = answer.stderr.strip().splitlines()
    return lines[-1] if lines else f"{code} ends with status {answer.returncode}"
