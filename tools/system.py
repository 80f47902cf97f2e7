"""What the machine must have before anything is installed: all that is missing, at once, with one line that installs it."""

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

from pipelines.machine import find_java, other_java_home
from tools.packages import installed
from tools.progress import SetupError, ask, run, say

MIN_PYTHON, END_PYTHON = (3, 11), (3, 13)
MIN_CMAKE = (3, 13)
EMPTY_FREE_GB, FILLED_FREE_GB = 10, 2
"""For all packages and their downloads; for what is left to do where packages are there."""
PROBE = """
import importlib.util as u, json, os, sys, sysconfig
print(json.dumps({
    "version": list(sys.version_info[:3]), "executable": getattr(sys, "_base_executable", sys.executable),
    "prefix": sys.base_prefix, "venv": all(u.find_spec(name) for name in ("venv", "ensurepip")),
    "headers": os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))}))
"""
CXX20 = "#include <concepts>\ntemplate <std::integral T> T twice(T x) { return 2 * x; }\nint main() { return twice(0); }\n"


class Part(NamedTuple):
    """One thing the machine must have."""

    name: str
    found: str
    problem: str = ""
    """Empty = present."""
    apt: Tuple[str, ...] = ()
    dnf: Tuple[str, ...] = ()
    fix: str = ""
    """Where no package is the remedy."""


def os_release(path: str = "/etc/os-release") -> Dict[str, str]:
    """ID, ID_LIKE and VERSION_ID of the system; empty where the file is missing."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: value.strip('"') for name, mark, value in (line.partition("=") for line in lines) if mark}


def probe_python(candidate: str) -> dict:
    """Version, headers and venv of one Python; empty where it does not start (a pyenv shim without a version)."""
    try:
        answer = subprocess.run([candidate, "-c", PROBE], capture_output=True, text=True, timeout=60)
        return dict(json.loads(answer.stdout)) if answer.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}


def choose_python() -> dict:
    """The Python the environment is made of: $PYTHON, else the first complete one of 3.11 or 3.12, else the first suitable."""
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
    """Python 3.11 or 3.12 with venv, pip and headers (Horovod is compiled against them)."""
    named = os.environ.get("PYTHON")
    if named and not chosen:
        return Part("Python", "", f"PYTHON={named} is not 3.11 or 3.12", fix="unset PYTHON, or name another")
    if not chosen:
        name = {"22.04": "python3.11", "24.04": "python3.12"}.get(release.get("VERSION_ID", ""), "python3")
        problem = "no Python 3.11 or 3.12 on PATH"
        return Part(
            "Python", "", problem, (name, f"{name}-venv", f"{name}-dev"), ("python3.12", "python3.12-devel")
        )
    version = ".".join(map(str, chosen["version"]))
    name = "python" + ".".join(map(str, chosen["version"][:2]))
    missing = [what for what, there in (("venv", chosen["venv"]), ("dev", chosen["headers"])) if not there]
    if not missing:
        return Part("Python", version)
    words = " and ".join(
        {"venv": "venv with ensurepip", "dev": "headers (Python.h)"}[what] for what in missing
    )
    problem = f"{chosen['executable']} ({version}) lacks {words}"
    if chosen["prefix"] != "/usr":
        return Part(
            "Python",
            version,
            problem,
            fix="install it whole, or name another: PYTHON=/path/to/python3.11 make setup",
        )
    return Part("Python", version, problem, tuple(f"{name}-{what}" for what in missing), (f"{name}-devel",))


def check_java(release: Dict[str, str]) -> Part:
    """The Java that Spark will start."""
    java = find_java()
    if not java.problem:
        return Part("Java", java.version)
    other = other_java_home()
    fix = f"export JAVA_HOME={other}" if other else "unset JAVA_HOME" if "JAVA_HOME" in os.environ else ""
    old_enough = release.get("VERSION_ID", "") in ("11", "12", "22.04", "24.04")
    package = "openjdk-17-jdk-headless" if old_enough else "openjdk-21-jdk-headless"
    return Part(
        "Java",
        java.version,
        f"{java.problem}; Spark needs 17 or 21",
        () if other else (package,),
        () if other else ("java-21-openjdk-headless",),
        fix,
    )


def check_compiler() -> Part:
    """A C++ compiler that takes C++20: Horovod's torch part and torch's headers."""
    name = os.environ.get("CXX") or "g++"
    packages = ("g++",), ("gcc-c++",)
    words = name.split()
    if not shutil.which(words[0]):
        return Part("C++", "", f"no C++ compiler ({name}) on PATH", *packages)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cc"
        source.write_text(CXX20, encoding="ascii")
        answer = subprocess.run(
            [*words, "-std=c++20", "-fsyntax-only", str(source)], capture_output=True, text=True
        )
    version = subprocess.run(
        [words[0], "-dumpfullversion", "-dumpversion"], capture_output=True, text=True
    ).stdout.strip()
    if answer.returncode:
        return Part("C++", version, f"{name} {version} does not take C++20; GCC 10 or later does", *packages)
    return Part("C++", f"{name} {version}")


def check_cmake() -> Part:
    """CMake 3.13 or later."""
    if not shutil.which("cmake"):
        return Part("CMake", "", "no cmake on PATH", ("cmake",), ("cmake",))
    output = subprocess.run(["cmake", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)\.(\d+)\S*", output)
    if not found or (int(found.group(1)), int(found.group(2))) < MIN_CMAKE:
        return Part(
            "CMake", "", f"cmake is too old ({output.split(chr(10))[0]}), 3.13 needed", ("cmake",), ("cmake",)
        )
    return Part("CMake", found.group(0).split()[1])


def check_make() -> Part:
    """make, which CMake writes for."""
    found = shutil.which("make")
    return Part("make", found) if found else Part("make", "", "no make on PATH", ("make",), ("make",))


def check_disk(checkout: Path, cache: Path) -> Part:
    """Room where the environment and where the cache lie; a set-up that was cut off may go on in what it left."""
    needed = FILLED_FREE_GB if set(installed(checkout)) - {"pip", "setuptools"} else EMPTY_FREE_GB
    for folder in (checkout, cache):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free / 1e9
        if free < needed:
            problem = f"{free:.1f} GB free at {there}, {needed} needed"
            return Part(
                "disk",
                "",
                problem,
                fix="make room, or name another cache folder: DISTRIBUTARY_CACHE=/big/disk",
            )
    return Part("disk", "enough")


def check_all(*, checkout: Path, cache: Path) -> Tuple[dict, List[Part]]:
    """The Python to use (empty = none), and every part, present or missing."""
    release, chosen = os_release(), choose_python()
    parts = [
        check_python(chosen, release),
        check_java(release),
        check_compiler(),
        check_cmake(),
        check_make(),
    ]
    return chosen, [*parts, check_disk(checkout, cache)]


def install_commands(missing: List[Part], release: Dict[str, str]) -> List[List[str]]:
    """The commands that install what is missing; none where the system is not known or no package helps."""
    family = f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".split()
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    apt = [name for part in missing for name in part.apt]
    dnf = [name for part in missing for name in part.dnf]
    if apt and {"debian", "ubuntu"} & set(family):
        return [
            [*sudo, "apt-get", "update"],
            [*sudo, "apt-get", "install", "-y", "--no-install-recommends", *apt],
        ]
    if dnf and {"fedora", "rhel", "centos"} & set(family):
        return [[*sudo, "dnf", "install", "-y", *dnf]]
    return []


def report(missing: List[Part], release: Dict[str, str]) -> str:
    """All that is missing in one message, with the line that installs it."""
    lines = [f"{len(missing)} of what this machine needs {'is' if len(missing) == 1 else 'are'} missing:"]
    lines += [
        f"    {part.name:8} {part.problem}" + (f"; fix: {part.fix}" if part.fix else "") for part in missing
    ]
    commands = install_commands(missing, release)
    if commands:
        lines += ["  install it:", "    " + " && ".join(" ".join(command) for command in commands)]
        lines.append("  or: python3 tools/setup.py --system")
    elif any(part.apt for part in missing):
        names = ", ".join(name for part in missing for name in part.apt)
        lines.append(f"  install with your system's package manager what Debian calls: {names}")
    return "\n".join(lines)


def may_install() -> bool:
    """Root, or sudo without a password."""
    if os.geteuid() == 0:
        return True
    return (
        bool(shutil.which("sudo"))
        and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    )


def install(missing: List[Part], *, log: Path) -> None:
    """Install what is missing without a question. Raises SetupError, nothing installed, where part of it needs a person."""
    release = os_release()
    commands = install_commands(missing, release)
    beyond_packages = [part for part in missing if part.fix]
    if beyond_packages or not commands or not may_install():
        raise SetupError(report(missing, release))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in commands:
        say(" ".join(command))
        run(command, doing=" ".join(command[-3:] if "update" in command else command[:3]), log=log, env=env)


def offer_install(missing: List[Part], *, log: Path) -> bool:
    """As root on a terminal: ask, then install. False where nobody was asked or the answer was no."""
    if os.geteuid() != 0 or not install_commands(missing, os_release()):
        return False
    print(report(missing, os_release()))
    if not ask("install it now?"):
        return False
    install(missing, log=log)
    return True
