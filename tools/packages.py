"""The virtual environment: made with venv, filled by uv (by pip where uv cannot be had) from constraints.txt."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional, Set

from tools.cache import cache_folder, lock
from tools.progress import SetupError, run, say

UV = "uv==0.13.8"


def venv_python(checkout: Path) -> Path:
    """The Python of the environment."""
    return checkout / ".venv" / "bin" / "python"


def venv_version(checkout: Path) -> str:
    """3.11.7, as the environment's own file says; empty where there is no environment or its Python is gone."""
    if not venv_python(checkout).exists():
        return ""
    try:
        lines = (checkout / ".venv" / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    return values.get("version", "")


def canonical(name: str) -> str:
    """One spelling for typing_extensions, Typing-Extensions and typing.extensions (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def site_packages(checkout: Path) -> Path:
    """The folder of the environment's packages."""
    return (
        checkout
        / ".venv"
        / "lib"
        / f"python{'.'.join(venv_version(checkout).split('.')[:2])}"
        / "site-packages"
    )


def installed(checkout: Path) -> Dict[str, Set[str]]:
    """Package -> versions in .venv, by the names of its *.dist-info folders; nothing is opened."""
    found: Dict[str, Set[str]] = {}
    for folder in site_packages(checkout).glob("*.dist-info"):
        name, _, version = folder.name[: -len(".dist-info")].rpartition("-")
        found.setdefault(canonical(name), set()).add(version)
    return found


def pins(checkout: Path) -> Dict[str, Set[str]]:
    """Package -> versions that constraints.txt allows; "" among them: a marker may leave the package out."""
    allowed: Dict[str, Set[str]] = {}
    for line in (checkout / "constraints.txt").read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.partition("#")[0].partition(";")
        name, pinned, version = requirement.partition("==")
        if pinned:
            versions = allowed.setdefault(canonical(name.partition("[")[0].strip()), set())
            versions.update([version.split()[0], ""] if marker else [version.split()[0]])
    return allowed


def problems(checkout: Path) -> List[str]:
    """What .venv differs in from constraints.txt, and whether distributary is in it: one line each, empty = all as pinned."""
    there, lines = installed(checkout), []
    for name, allowed in pins(checkout).items():
        versions = there.get(name, {""})
        # 2.13.0+cu130 is the 2.13.0 of another index. Two versions of one package: an installation that was cut off.
        if (
            len(versions) > 1
            or not (versions | {version.partition("+")[0] for version in versions}) & allowed
        ):
            found = " and ".join(sorted(versions)) or "missing"
            lines.append(f"{name} {found}, pinned is {' or '.join(sorted(allowed - {''}))}")
    return lines + ([] if "distributary" in there else ["distributary missing"])


def make_venv(checkout: Path, python: dict, *, whole: bool, log: Path) -> None:
    """Make the environment, or complete one that was cut off; from the start if its Python or its place is another one.

    `whole`: the environment was made in this place and is to be kept.
    """
    version = ".".join(map(str, python["version"]))
    command = [python["executable"], "-m", "venv", str(checkout / ".venv")]
    if (checkout / ".venv").exists() and not (whole and venv_version(checkout) == version):
        say(f"making .venv anew: Python {version}, in {checkout}")
        command.insert(3, "--clear")
    run(command, doing="making .venv", log=log)


def find_uv(*, log: Path) -> Optional[str]:
    """uv from PATH, else from the cache folder, else installed there; None where it cannot be had (pip does the work then)."""
    on_path = shutil.which("uv")
    if on_path and starts(Path(on_path)):
        return on_path
    folder = cache_folder() / "uv" / f"{UV.replace('==', '-')}-py{sys.version_info[0]}.{sys.version_info[1]}"
    with lock("uv"):
        if starts(folder / "bin" / "uv"):
            return str(folder / "bin" / "uv")
        try:
            run(
                [sys.executable, "-m", "venv", "--clear", str(folder)], doing="making a place for uv", log=log
            )
            run(
                [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", UV],
                doing="installing uv",
                log=log,
            )
        except SetupError as error:
            say("uv cannot be had, pip does the work (slower): " + str(error).splitlines()[-1].strip())
            return None
    return str(folder / "bin" / "uv")


def starts(program: Path) -> bool:
    """The program is there and starts."""
    return (
        program.exists() and subprocess.run([str(program), "--version"], capture_output=True).returncode == 0
    )


def uv_environment() -> Dict[str, str]:
    """pip's index and certificates are uv's too, where uv was given none of its own."""
    env = {**os.environ, "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    same = {
        "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
        "UV_INDEX": "PIP_EXTRA_INDEX_URL",
        "SSL_CERT_FILE": "PIP_CERT",
    }
    for ours, theirs in same.items():
        if theirs in os.environ:
            env.setdefault(ours, os.environ[theirs])
    return env


def install(checkout: Path, arguments: List[str], *, doing: str, uv: Optional[str], log: Path) -> None:
    """pip install, by uv if there is one; what uv cannot fetch pip tries, which knows pip.conf."""
    python = str(venv_python(checkout))
    if uv:
        try:
            run(
                [uv, "pip", "install", "--python", python, *arguments],
                doing=doing,
                log=log,
                env=uv_environment(),
                cwd=checkout,
            )
            return
        except SetupError as error:
            say(f"{doing}: uv failed, trying pip; uv said:\n{error}")
    run([python, "-m", "pip", "install", *arguments], doing=doing, log=log, cwd=checkout)


def install_pinned(checkout: Path, *, uv: Optional[str], log: Path) -> None:
    """Every package of constraints.txt, as listed: nothing is resolved."""
    install(
        checkout,
        ["--no-deps", "--requirement", "constraints.txt"],
        doing="installing packages",
        uv=uv,
        log=log,
    )


def install_project(checkout: Path, *, uv: Optional[str], log: Path) -> None:
    """The checkout itself, editable: one .pth line, so that new files need no new set-up."""
    flag = "--config-setting" if uv else "--config-settings"
    options = ["--no-deps", "--no-build-isolation", flag, "editable_mode=compat", "--editable", "."]
    install(checkout, options, doing="installing distributary", uv=uv, log=log)
