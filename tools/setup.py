#!/usr/bin/env python3
"""Set up the checkout: system check, environment, pinned packages, Delta's jars, Horovod. `make setup` runs
it.

Needs only the standard library. Each part does nothing if its work is done: an interrupted set-up continues
where it stopped, and one with nothing to do ends in a fraction of a second. Writes only to .venv and to the
cache folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, List, Optional

CHECKOUT = Path(__file__).absolute().parent.parent
sys.path[:] = [str(CHECKOUT)] + [
    path for path in sys.path if Path(path or ".").absolute() != CHECKOUT / "tools"
]

from pipelines import machine  # noqa: E402
from tools import horovod_target, horovod_wheel, jars, packages, system, system_install  # noqa: E402
from tools.lock import lock  # noqa: E402
from tools.progress import SetupError, handle_signals, say  # noqa: E402

INPUTS = ("constraints.txt", "setup.cfg", "pyproject.toml", "tools/horovod.txt")


def stamp_path(checkout: Path) -> Path:
    """Record of the last complete set-up; inside .venv, so that it is deleted with it."""
    return checkout / ".venv" / "distributary-setup.json"


def stamp_key(checkout: Path) -> str:
    """Hash of all inputs: pinned files, .venv's Python, checkout path (scripts contain it), platform, cache
    folder."""
    parts: Dict[str, str] = {name: machine.file_sha256(checkout / name) for name in INPUTS}
    parts.update(
        python=packages.venv_version(checkout),
        named_python=os.environ.get("PYTHON", ""),
        checkout=str(checkout),
        platform=platform.machine(),
        cache=str(machine.cache_folder()),
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_stamp(checkout: Path) -> Dict[str, str]:
    """The stamp; empty if it is missing or cannot be read."""
    try:
        return dict(json.loads(stamp_path(checkout).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def write_stamp(checkout: Path) -> None:
    """Record that the set-up is complete. The file is replaced in one step."""
    part = stamp_path(checkout).with_suffix(".part")
    stamp = {"key": stamp_key(checkout), "checkout": str(checkout), "PYTHON": os.environ.get("PYTHON", "")}
    part.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    part.replace(stamp_path(checkout))


def recall_python(checkout: Path) -> None:
    """Use the Python named at the last set-up, so that `make demo` after `PYTHON=... make setup` keeps it."""
    named = read_stamp(checkout).get("PYTHON")
    if named and shutil.which(named):
        os.environ.setdefault("PYTHON", named)


def is_current(checkout: Path) -> bool:
    """True if no input changed since the last complete set-up and its results are still there."""
    if read_stamp(checkout).get("key") != stamp_key(checkout) or not packages.venv_version(checkout):
        return False
    return not find_problems(checkout)


def find_problems(checkout: Path) -> List[str]:
    """One line for each result of a set-up that is missing or wrong.

    Lists folders and reads four jars: milliseconds.
    """
    return [
        *packages.find_package_problems(checkout),
        *horovod_target.find_horovod_problems(checkout),
        *machine.find_jar_problems(machine.jars_folder(), machine.DELTA_JARS),
    ]


def check_system(*, may_install: bool) -> dict:
    """The Python to use. Raises SetupError that names all missing parts."""
    log = machine.cache_folder() / "logs" / "system.log"
    chosen, parts = system.check_all(checkout=CHECKOUT, cache=machine.cache_folder())
    missing = [part for part in parts if part.problem]
    if missing:
        if may_install:
            system_install.install_parts(missing, log=log)
        elif not system_install.offer_install(missing, log=log):
            raise SetupError(system_install.describe_missing(missing, system.read_os_release()))
        chosen, parts = system.check_all(checkout=CHECKOUT, cache=machine.cache_folder())
        missing = [part for part in parts if part.problem]
        if missing:
            problems = system_install.describe_missing(missing, system.read_os_release())
            raise SetupError(f"the installation succeeded, but parts are still missing:\n{problems}")
    found = (f"{part.name} {part.found}" for part in parts if part.name not in ("make", "disk"))
    say("system     " + ", ".join(found))
    return chosen


def set_up(checkout: Path) -> None:
    """Run all steps and print the time of each."""
    python = check_system(may_install=False)
    logs = machine.cache_folder() / "logs"
    same_place = read_stamp(checkout).get("checkout", str(checkout)) == str(checkout)
    uv: List[Optional[str]] = []

    def install_packages() -> str:
        packages.make_venv(checkout, python, keep=same_place, log=logs / "venv.log")
        uv.append(packages.find_uv(log=logs / "uv.log"))
        packages.install_pinned(checkout, uv=uv[0], log=logs / "packages.log")
        packages.install_project(checkout, uv=uv[0], log=logs / "project.log")
        num_pinned = len(machine.read_pins(checkout / "constraints.txt"))
        return f"{num_pinned} pinned packages in .venv, by {'uv' if uv[0] else 'pip'}"

    def install_jars() -> str:
        jars.fetch_jars(checkout, "delta", log=logs / "jars.log")
        return f"{len(machine.DELTA_JARS)} jars verified in {machine.jars_folder()}"

    def install_horovod() -> str:
        wheel = horovod_wheel.find_or_build_wheel(checkout, log=logs / "horovod.log")
        # --force-reinstall: the same version may be installed, but built for another torch.
        arguments = ["--no-deps", "--force-reinstall", str(wheel)]
        log = logs / "horovod-install.log"
        packages.install(checkout, arguments, doing="installing Horovod", uv=uv[0], log=log)
        horovod_target.check_horovod(checkout, wheel, log=logs / "horovod-check.log")
        return wheel.parent.name

    run_step("packages", install_packages)
    run_step("jars", install_jars)  # before Horovod: a missing network shows after 4 s, not after 3 minutes
    run_step("Horovod", install_horovod)
    problems = find_problems(checkout)
    if problems:
        raise SetupError(
            "all steps ran, but: " + "; ".join(problems) + "\n  fix: rm -r .venv, then make setup"
        )
    write_stamp(checkout)


def set_up_alone(checkout: Path) -> str:
    """Set up while holding the checkout's lock.

    "current" if another set-up, for which this one waited, did all the work.
    """
    with lock(f"checkout-{hashlib.sha256(str(checkout).encode()).hexdigest()[:12]}"):
        if is_current(checkout):
            return "current"
        print(
            "Distributary set-up: the first one takes about 5 minutes, mostly for Horovod; "
            "you can interrupt it at any time",
            flush=True,
        )
        if read_stamp(checkout).get("key") == stamp_key(checkout):
            say("repairing  " + "; ".join(find_problems(checkout)[:3]))
        set_up(checkout)
        return "complete"


def run_step(name: str, step: Callable[[], str]) -> None:
    """Run one step, then print its result and its time."""
    started_at = time.monotonic()
    result = step()
    say(f"{name:10} {result} ({time.monotonic() - started_at:.1f} s)")


def main(arguments: List[str]) -> int:
    """Exit status: 0 = done, 1 = cannot continue (the reason was printed), 128 + signal number =
    interrupted."""
    parser = argparse.ArgumentParser(description="Set up this checkout of Distributary.")
    parser.add_argument(
        "--system", action="store_true", help="only check the machine and install the missing parts (as root)"
    )
    options = parser.parse_args(arguments)
    started_at = time.monotonic()
    handle_signals()
    recall_python(CHECKOUT)
    try:
        if options.system:
            check_system(may_install=True)
            return 0
        done = "current" if is_current(CHECKOUT) else set_up_alone(CHECKOUT)
        java = machine.find_java()
        if java.problem:
            raise SetupError(f"{java.problem}; Spark needs 17 or 21; run: make system")
        say(f"set-up is {done} ({time.monotonic() - started_at:.1f} s)")
        return 0
    except SetupError as error:
        print(f"set-up stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        with suppress(OSError):  # after SIGHUP there is no terminal
            print("\ninterrupted; run the same command again to continue", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
