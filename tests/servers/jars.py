"""The jars of the servers: in the cache folder, or the test is skipped with their names."""

from pathlib import Path

import pytest

from pipelines.machine import JAR_GROUPS, jars_folder


def require_jars(group: str) -> list[Path]:
    """Paths of the jars of a group. Skips the test if one is missing; checksums were verified when the jars
    were downloaded."""
    jars = [jars_folder() / name for name in JAR_GROUPS[group]]
    missing = [jar.name for jar in jars if not jar.is_file()]
    if missing:
        pytest.skip(f'{", ".join(missing)} not in {jars_folder()}; run: make jars GROUPS="s3 servers kafka"')
    return jars


def find_jar(group: str, start: str) -> Path:
    """The one jar of a group whose name begins with `start`."""
    (jar,) = (jar for jar in require_jars(group) if jar.name.startswith(start))
    return jar
