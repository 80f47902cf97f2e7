"""Plant faults in guarded code, one at a time, and see whether the tests notice. `make faults` runs it.

Each fault of tests/faults.txt replaces a text in one file of a copy of the checkout; the tests named beside
it must then fail. A fault that survives means a guard without a test. A text that is no longer in its file
is an error, so the list stays true; `--check` looks for the texts only and takes milliseconds.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

CHECKOUT = Path(__file__).absolute().parent.parent
LIST = Path("tests") / "faults.txt"
LIMIT_SECONDS = 600
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "warehouse", "dist", "build", "__pycache__", "*_cache", "mlruns", "spark-warehouse"
)


class Fault(NamedTuple):
    """One change that the tests must notice."""

    name: str
    """What is broken, in a few words."""
    file: str
    old: str
    new: str
    tests: str
    """What goes to pytest: files, and -k or -m."""


def read_faults(text: str) -> List[Fault]:
    """The faults of a list: blocks of `key: value` lines, separated by empty lines.

    A line that starts with `|` continues the value above it as a line of its own. Raises ValueError with the
    block that lacks a key.
    """
    faults = []
    for block in text.split("\n\n"):
        fields: Dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line.startswith("|"):
                fields[key] += "\n" + line[1:]
            elif line.strip() and not line.startswith("#"):
                key, _, value = line.partition(": ")
                fields[key] = value
        if not fields:
            continue
        missing = [name for name in Fault._fields if name not in fields]
        if missing:
            raise ValueError(f"{LIST}: the block of {fields} lacks {', '.join(missing)}")
        faults.append(Fault(*(fields[name].removeprefix("|") for name in Fault._fields)))
    return faults


def find_lost(faults: List[Fault], checkout: Path) -> List[str]:
    """One line for each fault whose text is not in its file exactly once."""
    lost = []
    for fault in faults:
        file = checkout / fault.file
        count = file.read_text(encoding="utf-8").count(fault.old) if file.is_file() else 0
        if count != 1:
            lost.append(f"{fault.name}: the old text is {count} times in {fault.file}; correct {LIST}")
    return lost


def plant(fault: Fault, copy: Path) -> bool:
    """Whether the tests notice the fault. Status 1 of pytest means failed tests; any other is no answer.

    Raises RuntimeError if pytest finds no tests or cannot run.
    """
    file = copy / fault.file
    source = file.read_text(encoding="utf-8")
    file.write_text(source.replace(fault.old, fault.new), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *shlex.split(fault.tests),
    ]
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        status, output = run_tests(command, copy, env)
    finally:
        file.write_text(source, encoding="utf-8")
    if status not in (0, 1, None):
        raise RuntimeError(f"{fault.name}: pytest ended with status {status}\n{output[-2000:]}")
    return status != 0  # also a fault that makes the program hang


def run_tests(command: List[str], copy: Path, env: Dict[str, str]) -> Tuple[Optional[int], str]:
    """Status and output; the status is None after LIMIT_SECONDS. All processes that the tests started are
    ended then: Spark's JVM would otherwise go on."""
    with subprocess.Popen(
        command,
        cwd=copy,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return None, ""
    return process.returncode, output


def main(arguments: List[str]) -> int:
    """Exit status: 0 = every fault was noticed, 1 = one was not, or a text was not found."""
    parser = argparse.ArgumentParser(prog="make faults", description="Plant faults and run the tests.")
    parser.add_argument("words", nargs="*", help="only faults whose name or file has one of these words")
    parser.add_argument("--check", action="store_true", help="only look for the texts")
    options = parser.parse_args(arguments)
    faults = read_faults((CHECKOUT / LIST).read_text(encoding="utf-8"))
    lost = find_lost(faults, CHECKOUT)
    for line in lost:
        print(line, file=sys.stderr)
    if lost or options.check:
        return int(bool(lost))
    chosen = [
        fault
        for fault in faults
        if not options.words or any(word in f"{fault.name} {fault.file}" for word in options.words)
    ]
    survived = []
    with tempfile.TemporaryDirectory(prefix="distributary-faults-") as scratch:
        copy = Path(scratch) / "checkout"
        shutil.copytree(CHECKOUT, copy, ignore=NOT_COPIED)
        for number, fault in enumerate(chosen, 1):
            started_at = time.monotonic()
            caught = plant(fault, copy)
            seconds = time.monotonic() - started_at
            state = "caught" if caught else "SURVIVED"
            print(f"{number:3} of {len(chosen)}  {state:8}  {fault.name} ({seconds:.0f} s)", flush=True)
            survived += [] if caught else [fault]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} faults caught")
    for fault in survived:
        print(f"survived: {fault.name}; {fault.tests} should fail without it", file=sys.stderr)
    return int(bool(survived))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
