"""Which Java Spark will start, and whether it can: asked before the JVM, whose own answer is JAVA_GATEWAY_EXITED.

Standard library only: the set-up asks too, before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple, Optional

SUPPORTED_JAVA = (17, 21)
"""Spark 4.2 is tested on these; 8 and 11 end without a message."""


class Java(NamedTuple):
    """The java that Spark's launcher takes, and what it says of itself."""

    path: str
    version: str
    """As printed, such as 17.0.15; empty where there is no java or it did not start."""
    problem: str
    """Why Spark cannot use it; empty = it can."""


def feature_version(version: str) -> int:
    """8 for 1.8.0_392, 17 for 17.0.15, 25 for 25-ea; 0 for what is no version."""
    found = re.match(r"(?:1\.)?(\d+)", version)
    return int(found.group(1)) if found else 0


def parse_version(output: str) -> str:
    """The quoted version in what `java -version` prints; lines before it ("Picked up JAVA_TOOL_OPTIONS") do not matter."""
    found = re.search(r'^\S+ version "([^"]+)"', output, re.MULTILINE)
    return found.group(1) if found else ""


def find_java() -> Java:
    """JAVA_HOME first, then PATH: the order of Spark's launcher."""
    home = os.environ.get("JAVA_HOME")
    path = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not path:
        return Java("", "", "no java on PATH, and JAVA_HOME is not set")
    return ask_java(path, by_java_home=bool(home))


def ask_java(path: str, *, by_java_home: bool = False) -> Java:
    """Start one java and judge its version."""
    where = f"JAVA_HOME names {path}" if by_java_home else path
    try:
        answer = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Java(path, "", f"{where}, which does not start: {error}")
    version = parse_version(answer.stderr + answer.stdout)
    if not version:
        return Java(path, "", f"{where}, which names no version (status {answer.returncode})")
    if feature_version(version) not in SUPPORTED_JAVA:
        return Java(path, version, f"{where} is Java {version}")
    return Java(path, version, "")


def other_java_home() -> Optional[str]:
    """A home of a Java that Spark can use, among those installed in the usual place; None where there is none."""
    for home in sorted(Path("/usr/lib/jvm").glob("*/bin/java")):
        if not ask_java(str(home)).problem:
            return str(home.parent.parent)
    return None
