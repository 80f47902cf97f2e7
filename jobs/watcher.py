"""The events of a training, handed to a person and to its run."""

import logging
import time
from collections.abc import Callable
from typing import Any

from jobs.shell.progress import Progress
from pipelines.finetune.events import EventReader
from pipelines.storage import Folder

logger = logging.getLogger(__name__)

DRAIN_TRIES, DRAIN_PAUSE_SECONDS = 5, 2.0
"""For the last events of a training that has ended; storage that is away for longer is an error."""


class Watcher:
    """Hands the events of a training to a person and to its run, each once, in order."""

    def __init__(self, folder: str, work: Progress, log: Callable[[int, dict[str, float]], None]) -> None:
        self._reader, self._work, self._log = EventReader(Folder(folder) / "events"), work, log

    def look(self) -> None:
        """What is new; what storage does not give just now comes with the next look."""
        try:
            self._take()
        except OSError as error:
            logger.warning("the training's events cannot be read just now (%s); trying again", error)

    def drain(self) -> None:
        """What is left when the training has ended. Raises OSError if storage does not give it: metrics would be missing."""
        for attempt in range(1, DRAIN_TRIES + 1):
            try:
                self._take()
                return
            except OSError as error:
                if attempt == DRAIN_TRIES:
                    raise OSError(
                        f"the last events of a finished training cannot be read ({error}); run again when they can: "
                        "nothing is trained twice"
                    ) from error
                logger.warning("the training's last events cannot be read just now (%s); trying again", error)
                time.sleep(DRAIN_PAUSE_SECONDS)

    def _take(self) -> None:
        for event in self._reader.new():
            kind, step = event["kind"], event["step"]
            if kind == "note":
                self._work.update(event["text"])
            elif kind == "warning":
                self._work.print(f"step {step}: {event['text']}")
            elif kind == "step":
                self._work.update(_step_line(event))
                self._log(
                    step,
                    {
                        "train/loss": event["loss"],
                        "train/gradient_norm": event["gradient_norm"],
                        "train/learning_rate": event["learning_rate"],
                        "train/tokens_per_second": event["num_tokens"] / max(event["seconds"], 1e-9),
                    },
                )
            else:
                metrics = {
                    name: value for name, value in event.items() if name not in ("kind", "step", "split")
                }
                self._log(step, {f"{event['split']}/{name}": value for name, value in metrics.items()})
                shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
                self._work.print(f"step {step}: {event['split']}: {shown}")


def _step_line(event: dict[str, Any]) -> str:
    left = (event["total_steps"] - event["step"]) * event["seconds"]
    rate = event["num_tokens"] / max(event["seconds"], 1e-9)
    return (
        f"step {event['step']}/{event['total_steps']}: loss {event['loss']:.4f}, {rate:,.0f} tokens/s, "
        f"about {left // 60:.0f} min {left % 60:.0f} s left"
    )
