"""Loading of libraries: a sign of life meanwhile, and a check that all of them load.

The first time on a machine this takes half a minute.
"""

import importlib
import pkgutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pipelines

QUIET_SECONDS = 4.0


@contextmanager
def show_loading(what: str) -> Iterator[None]:
    """Print every few seconds to standard error that `what` is being loaded; nothing if it loads quickly."""
    done, start = threading.Event(), time.monotonic()

    def report() -> None:
        while not done.wait(QUIET_SECONDS):
            print(f"  loading {what} {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def load_everything() -> None:
    """Import all jobs and modules of the pipelines. Horovod may be missing: one process trains without it."""
    importlib.import_module("jobs.run")
    for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "horovod":
                raise
