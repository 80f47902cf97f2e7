"""Jars in named groups (`machine.JAR_GROUPS`): Spark's own resolver downloads a group into the cache folder
once; checksums are verified.

Only the named jars are downloaded, nothing that they depend on. Delta's coordinates, for example, resolve to
30 jars, and 26 of them (87 MB) are older copies of jars that pyspark ships.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Iterable, List, Mapping, NamedTuple

from pipelines.machine import JAR_GROUPS, cache_folder, find_jar_problems, jars_folder
from tools.lock import lock
from tools.packages import venv_python
from tools.progress import SetupError, run_command

CHECKOUT = Path(__file__).resolve().parent.parent
PUBLISHERS = {
    "HdrHistogram": "org.hdrhistogram",
    "analyticsaccelerator-s3": "software.amazon.s3.analyticsaccelerator",
    "argparse4j": "net.sourceforge.argparse4j",
    "bc": "org.bouncycastle",
    "bundle": "software.amazon.awssdk",
    "commons-validator": "commons-validator",
    "delta-": "io.delta",
    "hadoop-": "org.apache.hadoop",
    "jopt-simple": "net.sf.jopt-simple",
    "kafka": "org.apache.kafka",
    "metrics-core": "com.yammer.metrics",
    "pcollections": "org.pcollections",
    "re2j": "com.google.re2j",
    "s3mock": "com.adobe.testing",
    "scala-logging": "com.typesafe.scala-logging",
}
"""First letters of a jar -> the Maven group that publishes it."""


class Coordinates(NamedTuple):
    """What Maven calls a jar."""

    group: str
    artifact: str
    version: str
    classifier: str
    """Another build of the same version, such as exec; usually empty."""


def maven_coordinates(jar: str) -> Coordinates:
    """io.delta, delta-storage, 4.4.0 for delta-storage-4.4.0.jar."""
    found = re.fullmatch(r"(.+?)-(\d[\d.]*)(?:-(\w+))?\.jar", jar)
    group = next((group for start, group in PUBLISHERS.items() if jar.startswith(start)), None)
    if found is None or group is None:
        raise ValueError(
            f"{jar} has no Maven coordinates; name it ARTIFACT-VERSION.jar and add it to PUBLISHERS"
        )
    return Coordinates(group, found[1], found[2], found[3] or "")


def fetch_jars(checkout: Path, group: str, *, log: Path) -> None:
    """Put the jars of a group into the jars folder. A jar is moved there only after its checksum was
    verified.

    Raises SetupError with the file, its checksum and the remedy.
    """
    checksums = JAR_GROUPS[group]
    with lock("jars"):
        if not find_jar_problems(jars_folder(), checksums):
            return
        jars_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="jars-") as scratch:
            folder = Path(scratch)
            _resolve(checkout, group, checksums, folder, log=log)
            for name in checksums:
                downloaded = folder / "ivy" / "jars" / f"{maven_coordinates(name).group}_{name}"
                if downloaded.is_file():
                    downloaded.rename(folder / name)
            problems = find_jar_problems(folder, checksums)
            if problems:
                raise SetupError(_describe_problems(group, problems, log))
            for name in checksums:
                (folder / name).replace(jars_folder() / name)


def _resolve(checkout: Path, group: str, jars: Iterable[str], folder: Path, *, log: Path) -> None:
    """Run Spark's resolver on a package of our own that depends on the jars: `--packages` alone cannot name a
    classifier, or leave out everything that a jar depends on.

    The home folder is empty but for this package: a ~/.m2 that has POMs without jars makes the resolver fail.
    """
    package = folder / "home" / ".m2" / "repository" / "distributary" / group / "1"
    package.mkdir(parents=True)
    (package / f"{group}-1.pom").write_text(_write_pom(group, jars), encoding="ascii")
    with zipfile.ZipFile(package / f"{group}-1.jar", "w") as jar:
        jar.writestr("empty", "")
    script = folder / "resolved.py"
    script.write_text("print('resolved')\n", encoding="ascii")
    python = venv_python(checkout)
    command = [str(python.with_name("spark-submit")), "--master", "local[1]"]
    command += ["--packages", f"distributary:{group}:1"]
    conf = {
        "jars.ivy": folder / "ivy",
        "ui.enabled": "false",
        "driver.bindAddress": "127.0.0.1",
        "driver.host": "127.0.0.1",
    }
    for name, value in conf.items():
        command += ["--conf", f"spark.{name}={value}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    # The user's own JVM options (a proxy, a trust store) stay. Ours come last, so they win.
    options = f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} -Duser.home={folder / 'home'}".strip()
    env.update(SPARK_SUBMIT_OPTS=options, PYSPARK_PYTHON=str(python))
    run_command([*command, str(script)], doing=f"downloading the {group} jars", log=log, env=env, cwd=folder)
    shutil.rmtree(folder / "home", ignore_errors=True)


def _write_pom(group: str, jars: Iterable[str]) -> str:
    """A POM that depends on the jars and on nothing that they depend on."""
    others = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
    dependencies = ""
    for jar in map(maven_coordinates, jars):
        classifier = f"<classifier>{jar.classifier}</classifier>" if jar.classifier else ""
        dependencies += (
            f"<dependency><groupId>{jar.group}</groupId><artifactId>{jar.artifact}</artifactId>"
            f"<version>{jar.version}</version>{classifier}{others}</dependency>"
        )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>distributary</groupId>"
        f"<artifactId>{group}</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )


def _describe_problems(group: str, problems: List[str], log: Path) -> str:
    lines = [f"the {group} jars were not accepted; the cache folder is unchanged:"]
    lines += [f"    {line}" for line in problems]
    lines.append(f"  full log: {log}")
    lines.append(
        "  fix: run the command again; if a checksum differs again, report it and do not change the checksum"
    )
    return "\n".join(lines)


def main(groups: List[str], known: Mapping[str, object] = JAR_GROUPS) -> int:
    """Download the named groups. Exit status: 0 = done, 1 = failed (the reason was printed), 2 = misused."""
    if not groups or set(groups) - set(known):
        print(f"usage: python -m tools.jars GROUP...; groups: {', '.join(known)}", file=sys.stderr)
        return 2
    for group in groups:
        try:
            fetch_jars(CHECKOUT, group, log=cache_folder() / "logs" / f"jars-{group}.log")
        except SetupError as error:
            print(f"set-up stopped: {error}", file=sys.stderr)
            return 1
        print(f"{len(JAR_GROUPS[group])} {group} jars verified in {jars_folder()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
