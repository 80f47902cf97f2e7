"""The virtual environment: created with venv, then filled from constraints.txt by uv, or by pip if uv is not
available."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional

from pipelines.machine import cache_folder, find_pin_problems, list_packages, read_pins
from tools.lock import lock
from tools.progress import SetupError, run_command, say

UV = "uv==0.13.8"


def venv_python(checkout: Path) -> Path:
    """The Python of the environment."""
    return checkout / ".venv" / "bin" / "python"


def venv_version(checkout: Path) -> str:
    """Python version of .venv, for example 3.11.7, read from pyvenv.cfg; empty if .venv or its Python is
    missing."""
    if not venv_python(checkout).exists():
        return ""
    try:
        lines = (checkout / ".venv" / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    return values.get("version", "")


def site_packages(checkout: Path) -> Path:
    """The folder with the environment's packages."""
    python = f"python{'.'.join(venv_version(checkout).split('.')[:2])}"
    return checkout / ".venv" / "lib" / python / "site-packages"


def find_package_problems(checkout: Path) -> List[str]:
    """One line for each package of .venv that differs from constraints.txt, or if distributary is not
    installed."""
    installed = list_packages(site_packages(checkout))
    problems = list(find_pin_problems(installed, read_pins(checkout / "constraints.txt")).values())
    return problems + ([] if "distributary" in installed else ["distributary missing"])


def make_venv(checkout: Path, python: dict, *, keep: bool, log: Path) -> None:
    """Create .venv, or complete one whose creation was interrupted.

    With `keep`, a .venv with the same Python version stays; else it is cleared first (it was made for another
    folder).
    """
    version = ".".join(map(str, python["version"]))
    command = [python["executable"], "-m", "venv", str(checkout / ".venv")]
    if (checkout / ".venv").exists() and not (keep and venv_version(checkout) == version):
        say(f"creating .venv again: Python {version}, in {checkout}")
        command.insert(3, "--clear")
    run_command(command, doing="creating .venv", log=log)


def find_uv(*, log: Path) -> Optional[str]:
    """uv from PATH, else from the cache folder, else installed there.

    None if it cannot be installed: pip is used then.
    """
    on_path = shutil.which("uv")
    if on_path and can_start(Path(on_path)):
        return on_path
    folder = cache_folder() / "uv" / f"{UV.replace('==', '-')}-py{sys.version_info[0]}.{sys.version_info[1]}"
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", UV]
    with lock("uv"):
        if can_start(folder / "bin" / "uv"):
            return str(folder / "bin" / "uv")
        try:
            create = [sys.executable, "-m", "venv", "--clear", str(folder)]
            run_command(create, doing="creating an environment for uv", log=log)
            run_command(pip, doing="installing uv", log=log)
        except SetupError as error:
            say("uv is not available, using pip (slower): " + str(error).splitlines()[-1].strip())
            return None
    return str(folder / "bin" / "uv")


def can_start(program: Path) -> bool:
    """True if the program exists and `--version` exits with status 0."""
    if not program.exists():
        return False
    return subprocess.run([str(program), "--version"], capture_output=True).returncode == 0


def uv_environment() -> Dict[str, str]:
    """Variables for uv: pip's index and certificates also apply to uv, unless uv has its own."""
    env = {**os.environ, "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    pip_variables = {
        "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
        "UV_INDEX": "PIP_EXTRA_INDEX_URL",
        "SSL_CERT_FILE": "PIP_CERT",
    }
    for for_uv, for_pip in pip_variables.items():
        if for_pip in os.environ:
            env.setdefault(for_uv, os.environ[for_pip])
    return env


def install(checkout: Path, arguments: List[str], *, doing: str, uv: Optional[str], log: Path) -> None:
    """Run `pip install` with uv. If uv is missing or fails, run pip itself, which also reads pip.conf."""
    python = str(venv_python(checkout))
    if uv:
        # As pip does by default. Otherwise each process that may not write bytecode compiles torch and
        # transformers again: 19 s of CPU instead of 6.
        command = [uv, "pip", "install", "--compile-bytecode", "--python", python, *arguments]
        try:
            run_command(command, doing=doing, log=log, env=uv_environment(), cwd=checkout)
            return
        except SetupError as error:
            say(f"{doing}: uv failed, trying pip; uv printed:\n{error}")
    run_command([python, "-m", "pip", "install", *arguments], doing=doing, log=log, cwd=checkout)


def install_pinned(checkout: Path, *, uv: Optional[str], log: Path) -> None:
    """Install every package of constraints.txt as listed; dependencies are not resolved."""
    arguments = ["--no-deps", "--requirement", "constraints.txt"]
    install(checkout, arguments, doing="installing packages", uv=uv, log=log)


def install_project(checkout: Path, *, uv: Optional[str], log: Path) -> None:
    """Install the checkout in editable mode, by one .pth line, so new files need no new set-up."""
    flag = "--config-setting" if uv else "--config-settings"
    options = ["--no-deps", "--no-build-isolation", flag, "editable_mode=compat", "--editable", "."]
    install(checkout, options, doing="installing distributary", uv=uv, log=log)
