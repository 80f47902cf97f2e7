"""Compare the installed packages with the requirements of distributary. Needs the package `packaging`."""

import importlib.metadata
from collections.abc import Collection, Iterator, Mapping
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
    for requirement, needed_by in _walk_requirements(installed, extra):
        package = canonical_name(requirement.name)
        if package not in installed:
            problems[package] = f"{package} missing, {needed_by} needs it"
        elif not requirement.specifier.contains(version := installed[package].version, prereleases=True):
            problems[package] = f"{package} {version}, {needed_by} needs {requirement.specifier}"
    return problems


def find_needed(
    installed: Mapping[str, Distribution], *, extra: str = "", without: Collection[str] = ()
) -> set[str]:
    """Installed packages that distributary (with an extra) needs, directly or not.

    without: packages that are left out with everything that only they need.
    """
    found = _walk_requirements(installed, extra, without)
    return {canonical_name(requirement.name) for requirement, _ in found} & set(installed)


def _walk_requirements(
    installed: Mapping[str, Distribution], extra: str, without: Collection[str] = ()
) -> Iterator[tuple[Requirement, str]]:
    """Each requirement of distributary and of what it needs, with the package (and its extra) that asks for
    it."""
    waiting, visited = [("distributary", extra)], set()
    while waiting:
        parent, option = waiting.pop()
        if parent not in installed or (parent, option) in visited:
            continue
        visited.add((parent, option))
        for requirement in map(Requirement, installed[parent].requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": option}):
                continue
            if canonical_name(requirement.name) in without:
                continue
            waiting += [(canonical_name(requirement.name), each) for each in ("", *requirement.extras)]
            yield requirement, f"{parent}[{option}]" if option else parent
