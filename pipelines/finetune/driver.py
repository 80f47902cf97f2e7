"""A training seen from the driver: its ranks are launched, and while they run their events are shown and
logged and the lease on the run folder is checked.

Everything outside comes as callables, so that this module knows neither MLflow nor the terminal.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.finetune.base_files import place_base
from pipelines.finetune.events import EventReader
from pipelines.finetune.launch.barrier import run_ranks
from pipelines.finetune.launch.slots import require_slots
from pipelines.finetune.launch.timeline import VARIABLES as TIMELINE_VARIABLES
from pipelines.finetune.launch.world import World
from pipelines.finetune.preemption import pass_on_request, require_no_request
from pipelines.finetune.results import read_result
from pipelines.finetune.times.parts import KIND as TIMES
from pipelines.finetune.times.parts import make_metrics
from pipelines.finetune.training import Training
from pipelines.storage import Folder

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

DRAIN_TRIES, DRAIN_PAUSE_SECONDS = 5, 2.0
"""For the last events of a finished training; storage that is away for longer is an error."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears about a training."""

    log: Callable[[int, dict[str, float]], None]
    """log(step, metrics) to the run."""
    show_progress: Callable[[str], None]
    """What the training is doing now; may be shown or skipped."""
    show_line: Callable[[str], None]
    """A line that stays."""
    require_lease: Callable[[], None] = lambda: None
    """Raises RuntimeError if another driver has taken over."""


def require_room(spark: "SparkSession", training: Training, num_ranks: int, *, wait_seconds: float) -> None:
    """Return when Spark can run all ranks at once; errors as in `require_slots`."""
    gpus = training.execution.gpus_per_rank
    require_slots(spark, num_ranks, gpus_per_rank=gpus, wait_seconds=wait_seconds)


def run_training(spark: "SparkSession", training: Training, listeners: Listeners, *, num_ranks: int) -> None:
    """Train until the result is in the run folder, and hand out all events. A finished training is not run
    again.

    Raises RankError if a rank fails, ValueError if the cluster is too small, RuntimeError if the lease is
    lost, Preempted if it was asked to make room (see `preemption`).
    """
    watcher = Watcher(training.folder, listeners)
    if read_result(training.folder) is None:
        training = place_base(spark, training)
        listeners.show_progress(f"launching {num_ranks} ranks")
        look_for_request = pass_on_request(Folder(training.folder))
        require_no_request()

        def look() -> None:
            watcher.look()
            look_for_request()

        results = run_ranks(
            spark,
            partial(train_on_rank, training),
            num_ranks=num_ranks,
            collectives=training.execution.collectives,
            gpus_per_rank=training.execution.gpus_per_rank,
            variables=TIMELINE_VARIABLES if training.execution.timeline else {},
            while_waiting=look,
        )
        if "made_room_at" in results[0]:
            watcher.drain()
            require_no_request(results[0]["made_room_at"])
    watcher.drain()


def train_on_rank(training: Training, world: World) -> dict[str, Any]:
    """`pipelines.finetune.worker.train_rank`, which the rank imports: a driver needs no torch."""
    from pipelines.finetune.worker import train_rank

    return train_rank(training, world)


MIXTURE_METRIC = "mixture"
"""mixture/SOURCE: share of the tokens that came from a source, over the thousand steps up to the point."""


class Watcher:
    """Hands the events of a training to the listeners, each once, in order."""

    def __init__(self, folder: str, listeners: Listeners) -> None:
        self._reader, self._listeners = EventReader(Folder(folder) / "events"), listeners

    def look(self) -> None:
        """Hand out new events; what storage cannot give now comes with the next look. Call it about once a
        second.
        """
        self._listeners.require_lease()
        try:
            self._hand_out()
        except OSError as error:
            logger.warning("the training's events cannot be read now (%s); trying again", error)

    def drain(self) -> None:
        """Hand out all events of a finished training. Raises OSError if storage cannot give them: metrics
        would be missing.
        """
        for attempt in range(1, DRAIN_TRIES + 1):
            try:
                self._hand_out()
                break
            except OSError as error:
                if attempt == DRAIN_TRIES:
                    raise OSError(
                        f"the last events of a finished training cannot be read ({error}); run again "
                        "when they can: nothing is trained twice"
                    ) from error
                logger.warning("the training's last events cannot be read now (%s); trying again", error)
                time.sleep(DRAIN_PAUSE_SECONDS)
        self._listeners.require_lease()

    def _hand_out(self) -> None:
        for event in self._reader.new():
            kind, step = event["kind"], event["step"]
            if kind == "note":
                self._listeners.show_progress(event["text"])
            elif kind == "warning":
                self._listeners.show_line(f"step {step}: {event['text']}")
            elif kind == "step":
                self._listeners.show_progress(format_step(event))
                self._listeners.log(step, step_metrics(event))
            elif kind == TIMES:
                self._listeners.log(step, make_metrics(event))
            elif kind == "mixture":
                self._listeners.log(step, mixture_metrics(event))
            else:
                self._hand_out_evaluation(event)

    def _hand_out_evaluation(self, event: dict[str, Any]) -> None:
        metrics = {name: value for name, value in event.items() if name not in ("kind", "step", "split")}
        self._listeners.log(
            event["step"], {f"{event['split']}/{name}": value for name, value in metrics.items()}
        )
        values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._listeners.show_line(f"step {event['step']}: {event['split']}: {values}")


def step_metrics(event: dict[str, Any]) -> dict[str, float]:
    """The points of the training curves that a step event gives. A skipped step of float16 has no finite
    gradient, and perhaps no loss: a point is left out."""
    points = {
        "train/loss": event["loss"],
        "train/gradient_norm": event["gradient_norm"],
        "train/learning_rate": event["learning_rate"],
        "train/tokens_per_second": event["num_tokens"] / max(event["seconds"], 1e-9),
    }
    if event.get("loss_scale") is not None:
        points |= {"train/loss_scale": event["loss_scale"], "train/skipped_steps": event["num_skipped"]}
    if "sent_bytes" in event:
        points |= {
            "train/sent_bytes_per_step": event["sent_bytes"] / event["step"],
            "train/traffic_fraction": event["sent_bytes"] / max(1, event["synchronous_bytes"]),
        }
    return {name: value for name, value in points.items() if math.isfinite(value)}


def mixture_metrics(event: dict[str, Any]) -> dict[str, float]:
    """The points of the realised mixture that a mixture event gives."""
    total = max(1, sum(event["tokens"].values()))
    return {f"{MIXTURE_METRIC}/{source}": tokens / total for source, tokens in event["tokens"].items()}


def format_step(event: dict[str, Any]) -> str:
    """One line of progress, with the time left if all steps took as long as this one."""
    left = (event["total_steps"] - event["step"]) * event["seconds"]
    rate = event["num_tokens"] / max(event["seconds"], 1e-9)
    return (
        f"step {event['step']}/{event['total_steps']}: loss {event['loss']:.4f}, {rate:,.0f} tokens/s, "
        f"about {left // 60:.0f} min {left % 60:.0f} s left"
    )
