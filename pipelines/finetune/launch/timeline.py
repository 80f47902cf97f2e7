"""Horovod's timeline of a training: what each tensor waited for, as a file for chrome://tracing or Perfetto.

Horovod writes it on rank 0, on a local disk; when the ranks leave, it goes compressed to `timeline/` in the
run folder, one file for each launch. A rank that is killed leaves none.
"""

import logging
import mmap
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.finetune.launch.world import World
from pipelines.finetune.training import Training
from pipelines.storage import Folder

logger = logging.getLogger(__name__)

VARIABLES = {"HOROVOD_TIMELINE": "DYNAMIC"}
"""Horovod reads it when a rank joins: a timeline may be started later."""
FOLDER = "timeline"
QUIET_SECONDS, MOST_SECONDS = 0.3, 10.0
"""Horovod's thread writes on after it was stopped: until the file stays as it is."""


@contextmanager
def record_timeline(training: Training, world: World) -> Iterator[None]:
    """Record while the context lasts, also if it ends with an error. Collective; without `timeline` and for
    one rank nothing is recorded."""
    if not training.execution.timeline or world.world_size == 1:
        yield
        return
    import horovod.torch as hvd

    with tempfile.TemporaryDirectory(prefix="timeline-") as scratch:
        file = Path(scratch) / "timeline.json"
        hvd.start_timeline(str(file))
        try:
            yield
        finally:
            try:
                hvd.stop_timeline()
                if world.rank == 0:
                    _wait_until_written(file)
                    _keep(file, Folder(training.folder) / FOLDER)
            except (OSError, ValueError) as error:  # no reason to fail, nor to hide why the training did
                logger.warning("the timeline of this launch is not kept: %s", error)


def list_timelines(folder: str) -> list[str]:
    """Names of the timelines in a run folder, in the order of the launches."""
    return [f"{FOLDER}/{name}" for name in (Folder(folder) / FOLDER).names()]


def _wait_until_written(file: Path) -> None:
    end, size = time.monotonic() + MOST_SECONDS, -1
    while time.monotonic() < end:
        before, size = size, file.stat().st_size if file.exists() else 0
        if size == before:
            return
        time.sleep(QUIET_SECONDS)


def _keep(file: Path, folder: Folder) -> None:
    if not file.exists() or not file.stat().st_size:
        return
    packed = file.with_suffix(".zip")  # not .gz: Arrow unpacks and packs files of that name by itself
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, file.name)
    with (
        packed.open("rb") as source,
        mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
    ):
        folder.write(f"{time.time_ns():020d}.zip", view)
