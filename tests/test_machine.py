"""The machine: Java, the cache folder, jars and their checksums, packages and their pins."""

from pathlib import Path

import pytest

from pipelines.machine import (
    cache_folder,
    feature_version,
    find_jar_problems,
    find_java,
    find_pin_problems,
    jars_folder,
    list_packages,
    parse_version,
    probe_java,
    read_pins,
)

CHECKOUT = Path(__file__).resolve().parent.parent


def program(folder: Path, name: str, text: str) -> Path:
    """A shell script that prints `text` on standard error, as java does."""
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
def test_java_version_is_read_from_its_output(output, version, feature):
    assert parse_version(output) == version
    assert feature_version(version) == feature


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("1.8.0_392", False), ("11.0.2", False), ("17", True), ("21.0.3", True), ("25", False)],
)
def test_only_java_17_and_21_are_accepted(tmp_path, version, accepted):
    java = probe_java(str(program(tmp_path, "java", f'openjdk version "{version}" 2025-04-15')))
    assert java.version == version
    assert (java.problem == "") is accepted


def test_java_home_comes_before_path(tmp_path, monkeypatch):
    program(tmp_path, "bin/java", 'openjdk version "11.0.2" 2019-01-15')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java().problem == f"JAVA_HOME names {tmp_path}/bin/java is Java 11.0.2"


def test_java_home_without_java_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert "does not start" in find_java().problem


def test_cache_folder_is_absolute_and_configurable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTRIBUTARY_CACHE", "mine")
    assert cache_folder() == tmp_path / "mine"
    assert jars_folder() == tmp_path / "mine" / "jars"
    monkeypatch.delenv("DISTRIBUTARY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/distributary")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/distributary")


def test_a_changed_jar_is_named_with_both_checksums(tmp_path):
    (tmp_path / "good.jar").write_bytes(b"jar")
    (tmp_path / "changed.jar").write_bytes(b"not a jar")
    # Checksums by the command sha256sum.
    good = "0163f1eea7894350060624d315234d40c508ab251ba121714e234503045faadd"
    actual = "1f0f631427194028bfeca05414b146420645a4c0ede4b3692c1afc9633557b08"
    problems = find_jar_problems(
        tmp_path, {"good.jar": good, "changed.jar": "0" * 64, "absent.jar": "1" * 64}
    )
    assert problems == [
        f"{tmp_path}/changed.jar has sha256 {actual}, expected {'0' * 64}",
        f"absent.jar is missing in {tmp_path}",
    ]


def test_packages_are_read_from_dist_info_folders(tmp_path):
    for name in ("Typing.Extensions-4.16.0", "torch-2.13.0+cu130", "torch-2.14.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
    (tmp_path / "torch").mkdir()
    assert list_packages(tmp_path) == {"typing-extensions": {"4.16.0"}, "torch": {"2.13.0+cu130", "2.14.0"}}
    assert list_packages(tmp_path / "absent") == {}


def test_pins_are_read_with_their_markers(tmp_path):
    file = tmp_path / "constraints.txt"
    file.write_text("# all\na_b==1.0  # why\nC[extra]==2.0\ntomli==2.4 ; python_version < '3.11'\nd>=1\n")
    assert read_pins(file) == {"a-b": {"1.0"}, "c": {"2.0"}, "tomli": {"2.4", ""}}
    assert read_pins(tmp_path / "absent") == {}
    assert len(read_pins(CHECKOUT / "constraints.txt")) > 100


@pytest.mark.parametrize(
    ("installed", "problem"),
    [
        ({"2.13.0"}, None),
        ({"2.13.0+cu130"}, None),
        ({"2.13.1"}, "torch 2.13.1, pinned is 2.13.0"),
        ({"2.13.0", "2.14.0"}, "torch 2.13.0 and 2.14.0, pinned is 2.13.0"),
        (set(), "torch missing, pinned is 2.13.0"),
    ],
)
def test_versions_are_compared_with_their_pins(installed, problem):
    expected = {} if problem is None else {"torch": problem}
    assert find_pin_problems({"torch": installed}, {"torch": {"2.13.0"}}) == expected


def test_a_pin_with_a_marker_may_be_absent():
    pins = {"tomli": {"2.4", ""}}
    assert find_pin_problems({}, pins) == {}
    assert find_pin_problems({"tomli": {"2.0"}}, pins) == {"tomli": "tomli 2.0, pinned is 2.4"}
