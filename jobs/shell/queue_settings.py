"""The section `queue` of the configuration, and what one training needs of the machines."""

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.shell.settings import AbsolutePath, Positive, Section
from jobs.shell.settings_checks import count_cores

if TYPE_CHECKING:
    from jobs.finetune import Config
    from pipelines.finetune.queue.resources import Amount

PolicyName = Literal["static", "round_robin", "shortest_first", "load_balanced", "resource_aware", "deadline"]
LOCAL = "local"
"""The group of this machine, where no group is configured."""
DRIVER_GB = 1.0
"""Memory of a training's driver, with the JVM of a local master. An assumption, not measured."""


class Group(BaseModel):
    """Equal machines. All ranks of a training run in one group."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    slots: Positive | None = None
    gpus: Annotated[float, Field(ge=0)] = 0.0
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    spark: dict[Annotated[str, Field(pattern=r"^spark\.\w")], str] = {}


class QueueConfig(Section):
    table: AbsolutePath
    policy: PolicyName
    resources: dict[str, Group]
    memory_gb_per_rank: Annotated[float, Field(gt=0)]
    max_faults: Positive
    poll_seconds: Annotated[float, Field(gt=0)]

    def groups(self) -> dict[str, Group]:
        return self.resources or {LOCAL: Group()}

    def amounts(self) -> "dict[str, Amount]":
        """What each group has."""
        from pipelines.finetune.queue.resources import Amount
        from pipelines.probe import read_memory_limit

        slots, memory = count_cores(), read_memory_limit()
        here = 1e6 if memory is None else memory / 1e9
        return {
            name: Amount(
                slots=group.slots or slots, gpus=group.gpus, memory_gb=group.memory_gb or round(here, 1)
            )
            for name, group in self.groups().items()
        }


def find_needs(config: "Config", memory_gb: float, gpus: float | None) -> "Amount":
    """Of all ranks of a training. `gpus`: None = what finetune.gpus_per_rank says."""
    from pipelines.finetune.queue.resources import Amount

    wanted = config.num_ranks * config.gpus_per_rank if gpus is None else gpus
    return Amount(slots=config.num_ranks * config.num_threads, gpus=wanted, memory_gb=round(memory_gb, 2))


def estimate_memory_gb(config: "Config", per_rank_gb: float) -> tuple[float, str]:
    """GB of all ranks and the driver of a training, and how they are known: estimated if its sequences are
    there, else `per_rank_gb` for each rank."""
    from jobs.shell.plan import require_unmodified_table
    from jobs.shell.room import runs_here
    from pipelines.finetune.memory.forecast import estimate_rank
    from pipelines.finetune.plan import make_training

    try:
        sequences = require_unmodified_table(config.sequences, "sequences", "dataset")
        training = make_training(config, sequences)
        found = estimate_rank(training, num_ranks=config.num_ranks, is_local=runs_here(config))
        each, how = found / 1e9, "estimated"
    except Exception as error:  # no table yet, no torch here, storage of any kind
        reason = str(error).partition("\n")[0][:200]
        each, how = per_rank_gb, f"queue.memory_gb_per_rank; no estimate: {reason}"
    return config.num_ranks * each + DRIVER_GB, how


def parse_deadline(text: str, now: datetime) -> float:
    """Seconds since the epoch: of a date with time (without a zone: the time of this machine), or of
    +NUMBER with m, h or d."""
    ahead = re.fullmatch(r"\+(\d+(?:\.\d+)?)([mhd])", text)
    if ahead:
        unit = {"m": "minutes", "h": "hours", "d": "days"}[ahead[2]]
        return (now + timedelta(**{unit: float(ahead[1])})).timestamp()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"--deadline must be a date and time such as 2026-01-31T18:00, or +90m, +6h, +2d; got {text!r}"
        ) from None
    return (found if found.tzinfo else found.astimezone()).timestamp()
