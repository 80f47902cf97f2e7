"""Compare the installed packages with the requirements of distributary. Needs the package `packaging`."""

import importlib.metadata
from collections.abc import Mapping
from importlib.metadata import Distribution

from packaging.requirements import Requirement

from pipelines.machine import canonical_name


def find_distributions() -> dict[str, Distribution]:
    """Package -> its distribution.

    If a package is installed twice, the first on sys.path, which Python imports.
    """
    distributions = reversed(list(importlib.metadata.distributions()))
    return {canonical_name(found.name): found for found in distributions if found.name}


def find_unmet(installed: Mapping[str, Distribution], *, extra: str = "") -> dict[str, str]:
    """Package -> one line, for each requirement of distributary (with an extra) that is missing or has a
    wrong version.

    The requirements of the requirements are checked too.
    """
    problems: dict[str, str] = {}
    waiting, visited = [("distributary", extra)], set()
    while waiting:
        parent, option = waiting.pop()
        if parent not in installed or (parent, option) in visited:
            continue
        visited.add((parent, option))
        for requirement in map(Requirement, installed[parent].requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": option}):
                continue
            package, needed_by = canonical_name(requirement.name), f"{parent}[{option}]" if option else parent
            waiting += [(package, each) for each in ("", *requirement.extras)]
            if package not in installed:
                problems[package] = f"{package} missing, {needed_by} needs it"
            elif not requirement.specifier.contains(version := installed[package].version, prereleases=True):
                problems[package] = f"{package} {version}, {needed_by} needs {requirement.specifier}"
    return problems
