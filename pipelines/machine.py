"""What this machine has: Java, the cache folder, Delta's jars, and Python packages compared with their pins.

The set-up in tools/ imports this file before anything is installed and on whatever Python 3.9 or later the
system has, so it uses the standard library only, and no newer syntax.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Set

SUPPORTED_JAVA = (17, 21)
"""Feature versions that Spark 4.2 is tested on. Java 8 and 11 exit without a message."""

DELTA_JARS: Dict[str, str] = {
    "delta-kernel-api-4.4.0.jar": "ee9b5a14ac3b7efdff4d61a58478fe8eb0e5a3fbca43889dca7290795fe79a11",
    "delta-kernel-defaults-4.4.0.jar": "225c975199e4718b38ee5b7e6da7f19e9585024262b2cec2656b32151a856b0b",
    "delta-spark_4.2_2.13-4.4.0.jar": "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
    "delta-storage-4.4.0.jar": "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
}
"""File name -> sha256 of the jars that a Spark session needs for the pinned Python package delta-spark."""

S3_JARS: Dict[str, str] = {
    "analyticsaccelerator-s3-1.3.1.jar": "4959a9747cbb479c73c3ffbcd479bee5b014f8b2880994585a8693fb9d24675e",
    "bundle-2.35.4.jar": "db4b55f24ad1b4e70f17eb1717a4de76a8dadc5a27d764be7c44ff67b2c1c677",
    "hadoop-aws-3.5.0.jar": "66bd9eefb938b1a1657487324b63c13df2d8b17164a1dd24e0ef37b905bc5baa",
}
"""Hadoop's s3a for the Spark of the pinned pyspark: hadoop-aws has the version of its hadoop-client-api jar,
and the AWS SDK (686 MB) is the one that hadoop-aws was built with. A cluster usually brings its own.
"""

SERVER_JARS: Dict[str, str] = {
    "bcpkix-jdk18on-1.78.1.jar": "4b48ea084e5232b9d79ebca1887b9de037b124931807cd60710748c2aee08cc9",
    "bcprov-jdk18on-1.78.1.jar": "add5915e6acfc6ab5836e1fd8a5e21c6488536a8c1f21f386eeb3bf280b702d7",
    "bcutil-jdk18on-1.78.1.jar": "d9fa56f97b0f761ce3bc8d9d74c5d7137a987bf5bd3abfe1003f9bafa45a1d2f",
    "hadoop-client-minicluster-3.5.0.jar": "06772d24529e59939915979b3edba204d367750ef7dc5120411f35221dd4818c",
    "s3mock-4.9.1-exec.jar": "18bbedb5d741587aaf254b1a91c65d632afd88c18badf214d5777b0ca4b772ba",
}
"""The servers that slow tests start: HDFS, YARN and an S3 server. Only tests need them."""

KAFKA_JARS: Dict[str, str] = {
    "HdrHistogram-2.2.2.jar": "22d1d4316c4ec13a68b559e98c8256d69071593731da96136640f864fa14fad8",
    "argparse4j-0.7.0.jar": "65ceb669d88f63306c680f8088bbf765bbca72d288a61a03703000076c3d3f56",
    "commons-validator-1.9.0.jar": "c3c14748e2d78db58df88808740711bd643b32c45ffa7b8a739f00fb467cd7d7",
    "jopt-simple-5.0.4.jar": "df26cc58f235f477db07f753ba5a3ab243ebe5789d9f89ecf68dd62ea9a66c28",
    "kafka-clients-4.1.1.jar": "00247122a572c3d3ae4eb60a50192a5811bc0181f51923d13018600f892e821d",
    "kafka-coordinator-common-4.1.1.jar": "2072fc1ce7e0505149bba22a463a5909a899c6235c4fa696f15c21194a7baf60",
    "kafka-group-coordinator-4.1.1.jar": "3eb5a673b69d5992cfa86c5436f39adbf4ce284046a4c999ec6af0a8e31c5589",
    "kafka-group-coordinator-api-4.1.1.jar": (
        "3d1801d2329dcf7d273796a034d61e6c7e0f851f384d0afbdd3a2e6cbd17a968"
    ),
    "kafka-metadata-4.1.1.jar": "a689665751415b6456de1ecb013042cb7ba99ac68fd8c3e8bf28e098feb43218",
    "kafka-raft-4.1.1.jar": "4810c93d93d1935dd54de61c5ba130f501c7fe11bc49ccd3ee05ec857818a72a",
    "kafka-server-4.1.1.jar": "9f6aff422855491aad54326eca8d604163d6d3a6507cc48ffe3ce6de73caf79a",
    "kafka-server-common-4.1.1.jar": "207edecd8322cf6c13d76d84addea7fd0ec441dc8d698cf69df43210ccdc0a94",
    "kafka-share-coordinator-4.1.1.jar": "e6bec53428c77bf6579321836d482542a93575f7c08e860a26c9f2c7f6059dac",
    "kafka-storage-4.1.1.jar": "1f85b82853eaec0143efbef7e3a4d4be8929ff83a386326431e0c2d0a557e58c",
    "kafka-storage-api-4.1.1.jar": "8c0a712472185d706c6bf5ae24bf5d84a8e396fd4745c708e6146a415f7fa7f7",
    "kafka-tools-api-4.1.1.jar": "542b08fe20cf872a2d866acdff61ea338b469219dc2ebfae727a1d9ea5737e1a",
    "kafka-transaction-coordinator-4.1.1.jar": (
        "a261b5730ac9e3205df7af5d45180d851e9d5f729ce1275c67511a6f51f73755"
    ),
    "kafka_2.13-4.1.1.jar": "e89428126cc7630a802123ba27aac4442816840b66d60670226feaff65f24fd1",
    "metrics-core-2.2.0.jar": "6b7a14a6f34c10f8683f7b5e2f39df0f07b58c7dff0e468ebbc713905c46979c",
    "pcollections-4.0.2.jar": "2bbeef5797a241300c4f7513cd546239629ed7deda4fc0c31df90bb95f5f13ef",
    "re2j-1.8.jar": "7b52c72156dd7f98b3237a5b35c1d34fba381b21048c89208913ad80a45dfbd7",
    "scala-logging_2.13-3.9.5.jar": "87a3017d3f43e6ace7566fe4c3d615134c6914ff871c8d64bb32ca1d996d0545",
}
"""A Kafka broker for slow tests (17 MB). The rest of what it needs (Scala, Jackson, log4j) is among pyspark's
jars."""

JAR_GROUPS: Dict[str, Dict[str, str]] = {
    "delta": DELTA_JARS,
    "s3": S3_JARS,
    "servers": SERVER_JARS,
    "kafka": KAFKA_JARS,
}
"""What `python -m tools.jars GROUP` downloads."""


class Java(NamedTuple):
    """The java that Spark's launcher starts."""

    path: str
    version: str
    """As java prints it, for example 17.0.15. Empty if there is no java or it did not start."""
    problem: str
    """Why Spark cannot use it. Empty if Spark can."""


def feature_version(version: str) -> int:
    """8 for 1.8.0_392, 17 for 17.0.15, 25 for 25-ea; 0 if `version` is not a version."""
    found = re.match(r"(?:1\.)?(\d+)", version)
    return int(found.group(1)) if found else 0


def parse_version(output: str) -> str:
    """The quoted version in the output of `java -version`.

    Lines before it ("Picked up JAVA_TOOL_OPTIONS") are skipped.
    """
    found = re.search(r'^\S+ version "([^"]+)"', output, re.MULTILINE)
    return found.group(1) if found else ""


def find_java() -> Java:
    """The java in JAVA_HOME, else the first on PATH. Spark's launcher uses the same order."""
    home = os.environ.get("JAVA_HOME")
    path = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not path:
        return Java("", "", "no java on PATH, and JAVA_HOME is not set")
    return probe_java(path, from_java_home=bool(home))


def probe_java(path: str, *, from_java_home: bool = False) -> Java:
    """Run `java -version` and check that Spark supports the version."""
    subject = f"JAVA_HOME names {path}" if from_java_home else path
    try:
        answer = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Java(path, "", f"{subject}, which does not start: {error}")
    version = parse_version(answer.stderr + answer.stdout)
    if not version:
        return Java(path, "", f"{subject}, which prints no version (exit status {answer.returncode})")
    if feature_version(version) not in SUPPORTED_JAVA:
        return Java(path, version, f"{subject} is Java {version}")
    return Java(path, version, "")


def find_other_java_home() -> Optional[str]:
    """JAVA_HOME of a supported Java under /usr/lib/jvm; None if there is none."""
    for program in sorted(Path("/usr/lib/jvm").glob("*/bin/java")):
        if not probe_java(str(program)).problem:
            return str(program.parent.parent)
    return None


def cache_folder() -> Path:
    """Absolute path of the folder for files that can be downloaded or built again; it may not exist yet.

    $DISTRIBUTARY_CACHE, else `distributary` under $XDG_CACHE_HOME, else ~/.cache/distributary.
    """
    chosen = os.environ.get("DISTRIBUTARY_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "distributary"


def jars_folder() -> Path:
    """Where the set-up puts the files of JAR_GROUPS and where Spark sessions look for them.

    A pack (`make pack`) has its own.
    """
    packed = Path(sys.prefix) / "share" / "distributary" / "jars"
    return packed if packed.is_dir() else cache_folder() / "jars"


def file_sha256(path: Path) -> str:
    """sha256 of a file, 64 hex digits. Reads 1 MiB at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def find_jar_problems(folder: Path, checksums: Mapping[str, str]) -> List[str]:
    """One line for each jar that is missing in `folder` or has another sha256; empty if all are correct."""
    problems = []
    for name, expected in checksums.items():
        jar = folder / name
        if not jar.is_file():
            problems.append(f"{name} is missing in {folder}")
            continue
        actual = file_sha256(jar)
        if actual != expected:
            problems.append(f"{jar} has sha256 {actual}, expected {expected}")
    return problems


def canonical_name(package: str) -> str:
    """The same spelling for typing_extensions, Typing-Extensions and typing.extensions (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def list_packages(site_packages: Path) -> Dict[str, Set[str]]:
    """Package -> versions installed in a folder, read from the names of its *.dist-info folders; no file is
    opened.

    Two versions of a package mean that an installation was interrupted.
    """
    packages: Dict[str, Set[str]] = {}
    for folder in site_packages.glob("*.dist-info"):
        name, _, version = folder.name[: -len(".dist-info")].rpartition("-")
        packages.setdefault(canonical_name(name), set()).add(version)
    return packages


def read_pins(constraints: Path) -> Dict[str, Set[str]]:
    """Package -> versions that constraints.txt allows; empty if there is no such file.

    A line with an environment marker also allows "" (not installed): markers are not evaluated here.
    """
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.is_file() else []
    pins: Dict[str, Set[str]] = {}
    for line in lines:
        requirement, _, marker = line.partition("#")[0].partition(";")
        name, equals, version = requirement.partition("==")
        if equals:
            allowed = pins.setdefault(canonical_name(name.partition("[")[0].strip()), set())
            allowed.update([version.split()[0], ""] if marker else [version.split()[0]])
    return pins


def find_pin_problems(installed: Mapping[str, Iterable[str]], pins: Mapping[str, Set[str]]) -> Dict[str, str]:
    """Package -> one line, for each pinned package that is missing or installed in another version.

    A local version fits its public version: 2.13.0+cu130 satisfies the pin 2.13.0.
    """
    problems = {}
    for name, allowed in pins.items():
        versions = set(installed.get(name, ())) or {""}
        public = {version.partition("+")[0] for version in versions}
        if len(versions) > 1 or not (versions | public) & allowed:
            found = " and ".join(sorted(versions)) if versions != {""} else "missing"
            problems[name] = f"{name} {found}, pinned is {' or '.join(sorted(allowed - {''}))}"
    return problems
