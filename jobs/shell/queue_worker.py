"""The process of one attempt of a queued training: claims the attempt, then does what `distributary finetune`
does. The scheduler starts it, in no one's terminal; it lives on if the scheduler dies.

Its only argument is a JSON object, as `Order` writes it.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.finetune.preemption import heed_requests


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    queue: str
    """Path of the table."""
    training: int
    attempt: int
    folder: str
    """Where the command was given."""
    request: Mapping[str, Any]
    """recipe, env, config, overrides; of the command `queue add`."""
    spark: Mapping[str, str]
    """Settings of the group in which it runs."""
    gpus: Sequence[int] | None
    """Numbers of the GPUs that it has, if its ranks run on this machine; None = all that there are."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def main(order: Order) -> None:
    """Train, if this process is the first one of the attempt. Ends with the exit status of the command."""
    from jobs import finetune
    from jobs.shell import settings as configuration
    from jobs.shell.command import build_command
    from pipelines.finetune.queue.attempt import AttemptFolder
    from pipelines.stores import configure

    os.chdir(order.folder)
    request = order.request
    file = None if request["config"] is None else Path(request["config"])
    overrides = [*request["overrides"], *(f"{name}={value}" for name, value in order.spark.items())]
    settings = configuration.load(
        recipe=request["recipe"], env=request["env"], file=file, overrides=overrides
    )
    configure(settings.stores)
    if order.gpus is not None and settings.tree["spark"].get("spark.master", "").startswith("local"):
        os.environ["CUDA_VISIBLE_DEVICES"] = name_gpus(order.gpus)
    attempt = AttemptFolder(order.queue, order.training, order.attempt)
    with attempt.claim() as is_mine:
        if not is_mine:
            print("this attempt was given up before this process began; nothing is done")
            return
        command = build_command("finetune", finetune.Config, finetune.main, finetune.plan)
        command(
            overrides=overrides,
            recipe=request["recipe"],
            env=request["env"],
            file=file,
            summary=attempt.summary,
        )


def name_gpus(gpus: Sequence[int]) -> str:
    """The GPUs as CUDA_VISIBLE_DEVICES names them: numbers, or the names that the scheduler sees itself."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else []
    return ",".join(names[gpu] if gpu < len(names) else str(gpu) for gpu in gpus)


if __name__ == "__main__":
    import traceback

    import typer

    from jobs.shell.exits import find_exit
    from jobs.shell.redaction import redact

    with heed_requests():  # before the claim, which lets the scheduler send signals
        try:
            main(Order(**json.loads(sys.argv[1])))
        except typer.Exit as end:
            sys.exit(end.exit_code)
        except Exception as error:  # before the command, which reports its own
            print(redact(traceback.format_exc()), file=sys.stderr)
            sys.exit(find_exit(error, configuring=True))
