#!/usr/bin/env python3
"""Set up the checkout: system check, environment, pinned packages, Horovod, Delta's jars. `make setup` calls it.

Runs on the standard library alone. Every part is a no-op where its work is done, so a set-up that was cut off goes on where it
stopped, and one with nothing to do ends in a fraction of a second. Writes to .venv and to the cache folder, nowhere else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
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

from pipelines.machine import find_java  # noqa: E402
from tools import horovod_wheel, jars, packages, system  # noqa: E402
from tools.cache import cache_folder, lock, sha256  # noqa: E402
from tools.progress import SetupError, heed_signals, say  # noqa: E402

INPUTS = ("constraints.txt", "setup.cfg", "pyproject.toml", "tools/horovod.txt")


def stamp_path(checkout: Path) -> Path:
    """What the last complete set-up did; inside .venv, so that it goes with it."""
    return checkout / ".venv" / "distributary-setup.json"


def stamp_key(checkout: Path) -> str:
    """Hash of all a set-up depends on: pinned files, the environment's Python, place (scripts name it), platform, cache."""
    parts: Dict[str, str] = {name: sha256(checkout / name) for name in INPUTS}
    parts.update(
        python=packages.venv_version(checkout),
        named_python=os.environ.get("PYTHON", ""),
        checkout=str(checkout),
        platform=platform.machine(),
        cache=str(cache_folder()),
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_stamp(checkout: Path) -> Dict[str, str]:
    """The stamp; empty where there is none or it cannot be read."""
    try:
        return dict(json.loads(stamp_path(checkout).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def write_stamp(checkout: Path) -> None:
    """Record that the set-up is complete, in one move."""
    fresh = stamp_path(checkout).with_suffix(".part")
    fresh.write_text(
        json.dumps({"key": stamp_key(checkout), "checkout": str(checkout)}, indent=2) + "\n", encoding="utf-8"
    )
    fresh.replace(stamp_path(checkout))


def is_current(checkout: Path) -> bool:
    """Nothing changed since the last complete set-up, and what it made is still there."""
    if read_stamp(checkout).get("key") != stamp_key(checkout) or not packages.venv_version(checkout):
        return False
    return not faults(checkout)


def faults(checkout: Path) -> List[str]:
    """What is not as a set-up leaves it, one line each. Lists folders and reads four jars: milliseconds."""
    broken_jars = jars.problems(jars.jars_folder(), jars.table(checkout))
    return packages.problems(checkout) + horovod_wheel.problems(checkout) + broken_jars


def check_system(*, may_install: bool) -> dict:
    """The Python to use. Raises SetupError that names all that is missing."""
    log = cache_folder() / "logs" / "system.log"
    chosen, parts = system.check_all(checkout=CHECKOUT, cache=cache_folder())
    missing = [part for part in parts if part.problem]
    if missing:
        if may_install:
            system.install(missing, log=log)
        elif not system.offer_install(missing, log=log):
            raise SetupError(system.report(missing, system.os_release()))
        chosen, parts = system.check_all(checkout=CHECKOUT, cache=cache_folder())
        missing = [part for part in parts if part.problem]
        if missing:
            raise SetupError("installed, and still:\n" + system.report(missing, system.os_release()))
    say(
        "system     "
        + ", ".join(f"{part.name} {part.found}" for part in parts if part.name not in ("make", "disk"))
    )
    return chosen


def set_up(checkout: Path) -> None:
    """All steps, each with its time."""
    python = check_system(may_install=False)
    logs = cache_folder() / "logs"
    whole = read_stamp(checkout).get("checkout", str(checkout)) == str(checkout)
    uv: List[Optional[str]] = []

    def environment() -> str:
        packages.make_venv(checkout, python, whole=whole, log=logs / "venv.log")
        uv.append(packages.find_uv(log=logs / "uv.log"))
        packages.install_pinned(checkout, uv=uv[0], log=logs / "packages.log")
        packages.install_project(checkout, uv=uv[0], log=logs / "project.log")
        num_pinned = sum(
            "==" in line for line in (checkout / "constraints.txt").read_text(encoding="utf-8").splitlines()
        )
        return f"{num_pinned} pinned packages in .venv, by {'uv' if uv[0] else 'pip'}"

    def delta() -> str:
        jars.fetch(checkout, log=logs / "jars.log")
        return f"{len(jars.table(checkout))} jars verified in {jars.jars_folder()}"

    def horovod() -> str:
        wheel = horovod_wheel.wheel(checkout, log=logs / "horovod.log")
        # --force-reinstall: the same version may be there, built for another torch.
        arguments = ["--no-deps", "--force-reinstall", str(wheel)]
        packages.install(
            checkout, arguments, doing="installing Horovod", uv=uv[0], log=logs / "horovod-install.log"
        )
        horovod_wheel.check(checkout, wheel, log=logs / "horovod-check.log")
        return wheel.parent.name

    timed("packages", environment)
    timed("jars", delta)  # before Horovod: a network that is missing shows after 4 s, not after 3 minutes
    timed("Horovod", horovod)
    left = faults(checkout)
    if left:
        raise SetupError("done, and still: " + "; ".join(left) + "\n  fix: rm -r .venv, then make setup")
    write_stamp(checkout)


def set_up_alone(checkout: Path) -> str:
    """Set up while no other set-up works in this checkout; "current" where one that we waited for did it all."""
    with lock(f"checkout-{hashlib.sha256(str(checkout).encode()).hexdigest()[:12]}"):
        if is_current(checkout):
            return "current"
        print(
            "Distributary set-up: the first takes about 5 minutes, mostly for Horovod; interrupt it as you like",
            flush=True,
        )
        if read_stamp(checkout).get("key") == stamp_key(checkout):
            say("mending   " + "; ".join(faults(checkout)[:3]))
        set_up(checkout)
        return "complete"


def timed(name: str, step: Callable[[], str]) -> None:
    """Run one step, then say what it made and how long it took."""
    begun = time.monotonic()
    made = step()
    say(f"{name:10} {made} ({time.monotonic() - begun:.1f} s)")


def main(arguments: List[str]) -> int:
    """Exit status: 0 done, 1 cannot go on (said why), 128 and the signal's number: interrupted."""
    parser = argparse.ArgumentParser(description="Set up this checkout of Distributary.")
    parser.add_argument(
        "--system", action="store_true", help="only check the machine, and install what it lacks (root)"
    )
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    heed_signals()
    try:
        if options.system:
            check_system(may_install=True)
            return 0
        done = "current" if is_current(CHECKOUT) else set_up_alone(CHECKOUT)
        java = find_java()
        if java.problem:
            raise SetupError(f"{java.problem}; Spark needs 17 or 21; run: make system")
        say(f"set-up is {done} ({time.monotonic() - begun:.1f} s)")
        return 0
    except SetupError as error:
        print(f"set-up stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        with suppress(OSError):  # after SIGHUP the terminal is gone
            print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
