"""Loading of libraries: a line every few seconds meanwhile, and a check that all of them load.

The first time on a machine this takes half a minute.
"""

import importlib
import pkgutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pipelines
from jobs.shell.repeating import repeat_every

QUIET_SECONDS = 4.0


@contextmanager
def show_loading(what: str) -> Iterator[None]:
    """Print every few seconds to standard error that `what` is being loaded; nothing if it loads quickly."""
    start = time.monotonic()

    def report() -> None:
        print(f"  loading {what} {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    with repeat_every(QUIET_SECONDS, report):
        yield


def load_everything() -> None:
    """Import all jobs and modules of the pipelines. Horovod may be missing: one process trains without it."""
    importlib.import_module("jobs.run")
    for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "horovod":
                raise
