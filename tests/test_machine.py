"""Which Java is taken, how its version is read, and which are refused."""

from pathlib import Path

import pytest

from pipelines.machine import ask_java, feature_version, find_java, parse_version


def program(folder: Path, name: str, text: str) -> Path:
    """A shell script that answers on standard error, as java does."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{text}\nEND\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("output", "version", "feature"),
    [
        (
            'openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment (build 17.0.15+6)',
            "17.0.15",
            17,
        ),
        ('openjdk version "21" 2023-09-19', "21", 21),
        ('java version "1.8.0_392"\nJava(TM) SE Runtime Environment', "1.8.0_392", 8),
        ('openjdk version "11.0.2" 2019-01-15', "11.0.2", 11),
        ('openjdk version "25-ea" 2025-09-16', "25-ea", 25),
        ('Picked up JAVA_TOOL_OPTIONS: -Dversion="9"\nopenjdk version "17.0.1" 2021-10-19', "17.0.1", 17),
        ("Error: could not open `/usr/lib/jvm/lib/jvm.cfg'", "", 0),
    ],
)
def test_java_version_is_read_from_what_java_prints(output, version, feature):
    assert parse_version(output) == version
    assert feature_version(version) == feature


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("1.8.0_392", False), ("11.0.2", False), ("17", True), ("21.0.3", True), ("25", False)],
)
def test_only_java_17_and_21_are_accepted(tmp_path, version, accepted):
    java = ask_java(str(program(tmp_path, "java", f'openjdk version "{version}" 2025-04-15')))
    assert java.version == version
    assert (java.problem == "") is accepted


def test_java_home_counts_before_path(tmp_path, monkeypatch):
    program(tmp_path, "bin/java", 'openjdk version "11.0.2" 2019-01-15')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java().problem == f"JAVA_HOME names {tmp_path}/bin/java is Java 11.0.2"


def test_java_home_without_a_java_is_a_problem_not_a_crash(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert "does not start" in find_java().problem
