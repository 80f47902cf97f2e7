"""What is installed, held against what distributary needs and against the pins of constraints.txt. Needs `packaging`."""

import importlib.metadata
import re
from collections.abc import Mapping
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement


def canonical(package: str) -> str:
    """One spelling for typing_extensions, Typing-Extensions and typing.extensions (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def installed() -> dict[str, Distribution]:
    """Package -> what is installed; of two, the first on the path, which is the one imported."""
    return {
        canonical(found.name): found
        for found in reversed(list(importlib.metadata.distributions()))
        if found.name
    }


def pins(constraints: Path) -> dict[str, Requirement]:
    """Package -> its pin for this Python; empty where distributary was installed without a checkout."""
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.is_file() else []
    pinned = [Requirement(line) for line in (line.partition("#")[0] for line in lines) if line.strip()]
    return {canonical(pin.name): pin for pin in pinned if pin.marker is None or pin.marker.evaluate()}


def unlike(there: Mapping[str, Distribution], pinned: Mapping[str, Requirement]) -> dict[str, str]:
    """Package -> its version and the pinned one, over the installed packages that are pinned otherwise."""
    return {
        package: f"{package} {there[package].version}, tested {pin.specifier}"
        for package, pin in pinned.items()
        if package in there and not pin.specifier.contains(there[package].version, prereleases=True)
    }


def unmet(there: Mapping[str, Distribution], *, extra: str = "") -> dict[str, str]:
    """Package -> what is wrong with it, over all that distributary (with an extra) needs, that those need, and so on."""
    wrong: dict[str, str] = {}
    waiting, asked = [("distributary", extra)], set()
    while waiting:
        who, option = waiting.pop()
        if who not in there or (who, option) in asked:
            continue
        asked.add((who, option))
        for needed in map(Requirement, there[who].requires or ()):
            if needed.marker is not None and not needed.marker.evaluate({"extra": option}):
                continue
            package, asker = canonical(needed.name), f"{who}[{option}]" if option else who
            waiting += [(package, each) for each in ("", *needed.extras)]
            if package not in there:
                wrong[package] = f"{package} missing, {asker} needs it"
            elif not needed.specifier.contains(there[package].version, prereleases=True):
                wrong[package] = f"{package} {there[package].version}, {asker} needs {needed.specifier}"
    return wrong
