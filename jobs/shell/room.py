"""Whether there is room for the ranks of a training: memory, and slots of the cluster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from jobs.shell.ranks import RanksSection
from jobs.shell.stage import Work

if TYPE_CHECKING:
    from pipelines.finetune.memory.question import Asker
    from pipelines.finetune.training import Training

SECONDS_TO_END = 10
"""For a thread that reads rows from a slow store when its training ends."""


def forecast_room(config: RanksSection, training: "Training") -> Callable[[], dict[str, str]]:
    """What looks at the memory of a rank, and whether this machine has it if the ranks run here."""
    return partial(_look_at_memory, config, training)


def require_room(config: RanksSection, work: Work[Any], training: "Training") -> None:
    """Return when Spark can run all ranks at once; errors as in `require_slots`."""
    from pipelines.finetune.driver import require_room as require_slots

    wait_seconds = config.wait_for_slots_seconds
    require_slots(work.spark, training, config.num_ranks, wait_seconds=wait_seconds)


@contextmanager
def watch_room(config: RanksSection, work: Work[Any], training: "Training") -> Iterator[None]:
    """While ranks train here, print a warning if they need more memory than this machine has.

    The estimate takes what ranks leave of the processors, and ends with them. What other machines have is not
    known here: then only a dry run looks.
    """
    from pipelines.finetune.memory.question import Asker

    if not runs_here(config):
        yield
        return
    asker = Asker(in_background=True)

    def look() -> None:
        warning = _look_at_memory(config, training, asker).get("memory warning")
        if warning is not None:
            work.progress.print(f"memory: {warning}")

    thread = Thread(target=look, name="memory of a rank", daemon=True)
    thread.start()
    try:
        yield
    finally:
        asker.stop()
        thread.join(SECONDS_TO_END)


def _look_at_memory(
    config: RanksSection, training: "Training", asker: "Asker | None" = None
) -> dict[str, str]:
    from pipelines.finetune.memory.forecast import forecast_memory

    is_local = runs_here(config)
    gives_gpus = config.gpus_per_rank > 0 or (not is_local and _gives_gpus_to_tasks(config))
    return forecast_memory(
        training, num_ranks=config.num_ranks, is_local=is_local, gives_gpus=gives_gpus, asker=asker
    )


def _gives_gpus_to_tasks(config: RanksSection) -> bool:
    return float(config.spark.get("spark.task.resource.gpu.amount", "0")) > 0


def runs_here(config: RanksSection) -> bool:
    """Whether the ranks are processes of this machine."""
    return config.spark.get("spark.master", "").startswith("local")
