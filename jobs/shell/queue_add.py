"""`distributary queue add` and `queue cancel`."""

import re
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jobs.shell.display import console
from jobs.shell.queue_settings import QueueConfig, estimate_memory_gb, find_needs, parse_deadline
from jobs.shell.queue_show import describe_needs
from jobs.shell.redaction import HIDDEN, redact
from jobs.shell.settings import Settings
from pipelines.finetune.queue.resources import Amount, Waiting
from pipelines.finetune.queue.state import Event, QueueState
from pipelines.finetune.queue.table import QueueTable

REFERENCE = r"\$\{oc\.env:\w+\}"
"""To a variable of the environment, without a default, which would be kept as text."""
QUOTED_REFERENCE = re.compile(rf"""(["']?){REFERENCE}\1""")
USER_WITH_REFERENCE = re.compile(rf"(?<=://)[^\s/@:]*:{REFERENCE}(?=@)")
"""In a URI, a name with its password."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What the person who adds a training says of it."""

    recipe: str | None
    env: str | None
    config: str | None
    """Absolute path."""
    overrides: list[str]
    priority: int
    deadline: str | None
    minutes: float | None
    memory_gb: float | None
    gpus: float | None
    group: str | None


def add_training(settings: Settings, config: QueueConfig, wish: Wish) -> int:
    """Add a training to the queue; its id. Raises ValueError if its configuration is wrong, if it names a
    secret, or if no group could ever hold it."""
    from jobs.finetune import Config

    training = settings.section("finetune", Config)
    _require_no_secret(wish.overrides)
    deadline = None if wish.deadline is None else parse_deadline(wish.deadline, datetime.now().astimezone())
    if deadline is not None and deadline <= time.time():
        raise ValueError(f"--deadline must be in the future, got {wish.deadline}")
    memory, how = wish.memory_gb, "given"
    if memory is None:
        memory, how = estimate_memory_gb(training, config.memory_gb_per_rank)
    needs = find_needs(training, memory, wish.gpus)
    require_group(needs, wish.group, config.amounts())
    detail = {
        "name": str(settings.tree["recipe"]),
        "request": {
            "recipe": wish.recipe,
            "env": wish.env,
            "config": wish.config,
            "overrides": wish.overrides,
        },
        "folder": str(Path.cwd()),
        "needs": dict(zip(("slots", "gpus", "memory_gb"), needs.parts(), strict=True)),
        "priority": wish.priority,
        "deadline": deadline,
        "group": wish.group,
        "seconds": None if wish.minutes is None else 60 * wish.minutes,
    }

    def decide(state: QueueState) -> list[Event]:
        return [Event(kind="added", at=time.time(), training=len(state.trainings) + 1, detail=detail)]

    number = len(QueueTable(config.table).change(decide).trainings)
    console.print(
        f"{number} {detail['name']}: needs {describe_needs(needs)} (memory: {redact(how)}); start it: "
        "distributary queue run",
        markup=False,
    )
    return number


def require_group(needs: Amount, group: str | None, groups: dict[str, Amount]) -> None:
    """Raise ValueError if no group, or not `group`, could hold such a training when it is empty."""
    if group is not None and group not in groups:
        raise ValueError(f"no group named {group}; queue.resources has: {', '.join(groups)}")
    if not Waiting(id=0, needs=needs, added_at=0.0, group=group).list_groups(groups):
        sizes = "; ".join(f"{name} has {describe_needs(whole)}" for name, whole in groups.items())
        raise ValueError(
            f"the training needs {describe_needs(needs)}, and no group of queue.resources is so large "
            f"({sizes}); lower finetune.num_ranks or finetune.num_threads, give --memory-gb, or correct "
            "queue.resources"
        )


def cancel_training(config: QueueConfig, number: int) -> None:
    """Cancel a training that waits or runs. Raises LookupError if there is none with this id, ValueError if
    it has ended."""

    def decide(state: QueueState) -> list[Event]:
        found = state.trainings.get(number)
        if found is None:
            raise LookupError(f"no training {number} in {config.table}; distributary queue list shows all")
        if found.status not in ("waiting", "running"):
            raise ValueError(f"training {number} is {found.status} already; nothing is left to cancel")
        return [] if found.is_cancelled else [Event(kind="cancelled", at=time.time(), training=number)]

    table = QueueTable(config.table)
    if not table.exists():
        raise LookupError(f"no queue at {config.table}; correct queue.table, or distributary queue add first")
    after = table.change(decide).trainings[number]
    text = (
        "cancelled" if after.status == "cancelled" else "the scheduler will stop it (distributary queue run)"
    )
    console.print(f"{number} {after.name}: {text}", markup=False)


def _require_no_secret(overrides: list[str]) -> None:
    """The queue keeps the command as text, which everyone who sees the table can read."""
    for each in overrides:
        key, _, value = each.partition("=")
        rest = QUOTED_REFERENCE.sub("", USER_WITH_REFERENCE.sub("", value))
        whole = f"{key}={rest}"
        # Where a reference was the whole secret, an empty text is hidden, which is none.
        if (
            str(redact(rest, rest, key)).replace(HIDDEN, "") != rest
            or redact(whole).replace(HIDDEN, "") != whole
        ):
            raise ValueError(
                f"{key} looks like a secret, and the queue would keep it as text; put it into the "
                f"environment of the scheduler and write ${{oc.env:NAME}} for it, without a default, as in "
                f"{key}='${{oc.env:NAME}}'"
            )
