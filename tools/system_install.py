"""Say which parts the machine lacks, and install them with the system's package manager."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List

from tools.progress import SetupError, ask, run_command, say
from tools.system import Part, read_os_release


def install_commands(missing: List[Part], release: Dict[str, str]) -> List[List[str]]:
    """Commands that install the missing parts; none if the system is unknown or no package helps."""
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


def describe_missing(missing: List[Part], release: Dict[str, str]) -> str:
    """One message with all missing parts and the command that installs them."""
    lines = [f"this machine lacks {len(missing)} of the parts that Distributary needs:"]
    lines += [
        f"    {part.name:8} {part.problem}" + (f"; fix: {part.fix}" if part.fix else "") for part in missing
    ]
    commands = install_commands(missing, release)
    if commands:
        lines += ["  install with:", "    " + " && ".join(" ".join(command) for command in commands)]
        lines.append("  or: python3 tools/setup.py --system")
    elif any(part.apt for part in missing):
        names = ", ".join(name for part in missing for name in part.apt)
        lines.append(f"  install these packages with your system's package manager (Debian's names): {names}")
    return "\n".join(lines)


def can_install() -> bool:
    """True for root, and for a user whose sudo needs no password."""
    if os.geteuid() == 0:
        return True
    if not shutil.which("sudo"):
        return False
    return subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0


def install_parts(missing: List[Part], *, log: Path) -> None:
    """Install the missing parts without asking.

    Raises SetupError, with nothing installed, if a part must be fixed by the user.
    """
    release = read_os_release()
    commands = install_commands(missing, release)
    if any(part.fix for part in missing) or not commands or not can_install():
        raise SetupError(describe_missing(missing, release))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in commands:
        say(" ".join(command))
        run_command(command, doing=" ".join(command[:3]), log=log, env=env)


def offer_install(missing: List[Part], *, log: Path) -> bool:
    """As root on a terminal: ask, then install.

    False if the question could not be asked or the answer was no.
    """
    if os.geteuid() != 0 or not install_commands(missing, read_os_release()):
        return False
    print(describe_missing(missing, read_os_release()))
    if not ask("install it now?"):
        return False
    install_parts(missing, log=log)
    return True
