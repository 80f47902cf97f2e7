"""Check what the machine must have before packages are installed: Python, Java, a C++ compiler, CMake, make,
disk space."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from pipelines.machine import find_java, find_other_java_home, list_packages
from tools.packages import site_packages

MIN_PYTHON, END_PYTHON = (3, 11), (3, 13)
MIN_CMAKE = (3, 13)
EMPTY_FREE_GB, FILLED_FREE_GB = 10, 2
"""Free space for a new environment with its downloads; for one that already has packages."""
PROBE = """
import importlib.util as u, json, os, sys, sysconfig
print(json.dumps({
    "version": list(sys.version_info[:3]), "executable": getattr(sys, "_base_executable", sys.executable),
    "prefix": sys.base_prefix, "venv": all(u.find_spec(name) for name in ("venv", "ensurepip")),
    "headers": os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))}))
"""
CXX20 = """
#include <concepts>
template <std::integral T> T twice(T x) { return 2 * x; }
int main() { return twice(0); }
"""


class Part(NamedTuple):
    """One thing the machine must have."""

    name: str
    found: str
    problem: str = ""
    """Empty if the part is present."""
    apt: Tuple[str, ...] = ()
    dnf: Tuple[str, ...] = ()
    fix: str = ""
    """Remedy if no system package helps."""


def read_os_release(path: str = "/etc/os-release") -> Dict[str, str]:
    """Fields of os-release: ID, ID_LIKE, VERSION_ID and others; empty if the file is missing."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: value.strip('"') for name, mark, value in (line.partition("=") for line in lines) if mark}


def probe_python(candidate: str) -> dict:
    """Version, headers and venv of one Python; empty if it does not start (for example a pyenv shim without a
    version)."""
    try:
        answer = subprocess.run([candidate, "-c", PROBE], capture_output=True, text=True, timeout=60)
        return dict(json.loads(answer.stdout)) if answer.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}


def choose_python() -> dict:
    """The Python for .venv: $PYTHON, else the first complete 3.11 or 3.12, else the first 3.11 or 3.12; empty
    if there is none."""
    named = os.environ.get("PYTHON")
    paths = os.environ.get("PATH", "").split(os.pathsep)
    names = ("python3", "python3.11", "python3.12", "python")
    candidates = (
        [named] if named else [sys.executable] + [str(Path(path, name)) for name in names for path in paths]
    )
    first: dict = {}
    for candidate in dict.fromkeys(candidates):
        if not shutil.which(candidate):
            continue
        found = probe_python(candidate)
        if not found or not MIN_PYTHON <= tuple(found["version"][:2]) < END_PYTHON:
            continue
        if found["venv"] and found["headers"]:
            return found
        first = first or found
    return first


def check_python(chosen: dict, release: Dict[str, str]) -> Part:
    """Python 3.11 or 3.12 with venv, pip and headers; Horovod is compiled with the headers."""
    named = os.environ.get("PYTHON")
    if named and not chosen:
        return Part(
            "Python", "", f"PYTHON={named} is not 3.11 or 3.12", fix="unset PYTHON, or set it to another one"
        )
    if not chosen:
        name = {"22.04": "python3.11", "24.04": "python3.12"}.get(release.get("VERSION_ID", ""), "python3")
        problem = "no Python 3.11 or 3.12 on PATH"
        return Part(
            "Python", "", problem, (name, f"{name}-venv", f"{name}-dev"), ("python3.12", "python3.12-devel")
        )
    version = ".".join(map(str, chosen["version"]))
    name = "python" + ".".join(map(str, chosen["version"][:2]))
    missing = [
        part for part, present in (("venv", chosen["venv"]), ("dev", chosen["headers"])) if not present
    ]
    if not missing:
        return Part("Python", version)
    names = {"venv": "venv with ensurepip", "dev": "headers (Python.h)"}
    problem = f"{chosen['executable']} ({version}) lacks {' and '.join(names[part] for part in missing)}"
    if chosen["prefix"] != "/usr":
        fix = "install it completely, or choose another: PYTHON=/path/to/python3.11 make setup"
        return Part("Python", version, problem, fix=fix)
    return Part("Python", version, problem, tuple(f"{name}-{part}" for part in missing), (f"{name}-devel",))


def check_java(release: Dict[str, str]) -> Part:
    """A Java that Spark supports."""
    java = find_java()
    if not java.problem:
        return Part("Java", java.version)
    other = find_other_java_home()
    fix = f"export JAVA_HOME={other}" if other else "unset JAVA_HOME" if "JAVA_HOME" in os.environ else ""
    has_java_17 = release.get("VERSION_ID", "") in ("11", "12", "22.04", "24.04")
    package = "openjdk-17-jdk-headless" if has_java_17 else "openjdk-21-jdk-headless"
    return Part(
        "Java",
        java.version,
        f"{java.problem}; Spark needs 17 or 21",
        () if other else (package,),
        () if other else ("java-21-openjdk-headless",),
        fix,
    )


def check_compiler() -> Part:
    """A C++ compiler that supports C++20, which torch's headers need."""
    name = os.environ.get("CXX") or "g++"
    packages = ("g++",), ("gcc-c++",)
    command = name.split()
    if not shutil.which(command[0]):
        return Part("C++", "", f"no C++ compiler ({name}) on PATH", *packages)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cc"
        source.write_text(CXX20, encoding="ascii")
        answer = subprocess.run(
            [*command, "-std=c++20", "-fsyntax-only", str(source)], capture_output=True, text=True
        )
    version = subprocess.run(
        [command[0], "-dumpfullversion", "-dumpversion"], capture_output=True, text=True
    ).stdout.strip()
    if answer.returncode:
        return Part(
            "C++", version, f"{name} {version} does not support C++20; GCC 10 or later does", *packages
        )
    return Part("C++", f"{name} {version}")


def check_cmake() -> Part:
    """CMake 3.13 or later."""
    if not shutil.which("cmake"):
        return Part("CMake", "", "no cmake on PATH", ("cmake",), ("cmake",))
    output = subprocess.run(["cmake", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)\.(\d+)\S*", output)
    if not found or (int(found.group(1)), int(found.group(2))) < MIN_CMAKE:
        return Part(
            "CMake",
            "",
            f"cmake is too old ({output.split(chr(10))[0]}); 3.13 or later is needed",
            ("cmake",),
            ("cmake",),
        )
    return Part("CMake", found.group(0).split()[1])


def check_make() -> Part:
    """make, which runs the files that CMake writes."""
    found = shutil.which("make")
    return Part("make", found) if found else Part("make", "", "no make on PATH", ("make",), ("make",))


def check_disk(checkout: Path, cache: Path) -> Part:
    """Free space for the environment and the cache.

    An interrupted set-up that continues needs less than a new one.
    """
    has_packages = set(list_packages(site_packages(checkout))) - {"pip", "setuptools"}
    needed = FILLED_FREE_GB if has_packages else EMPTY_FREE_GB
    for folder in (checkout, cache):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free / 1e9
        if free < needed:
            problem = f"{free:.1f} GB free at {existing}, {needed} needed"
            fix = "free some disk space, or choose another cache folder: DISTRIBUTARY_CACHE=/big/disk"
            return Part("disk", "", problem, fix=fix)
    return Part("disk", "enough")


def check_all(*, checkout: Path, cache: Path) -> Tuple[dict, List[Part]]:
    """The Python to use (empty if there is none), and all parts, present or missing."""
    release, chosen = read_os_release(), choose_python()
    parts = [
        check_python(chosen, release),
        check_java(release),
        check_compiler(),
        check_cmake(),
        check_make(),
    ]
    return chosen, [*parts, check_disk(checkout, cache)]
