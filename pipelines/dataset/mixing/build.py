"""The order of a training from what it is made of: for the ranks that train and for `trace`."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipelines.dataset.mixing.mixed import Difficulty, MixedRows
from pipelines.dataset.mixing.plan import MixturePlan, SourcePlan
from pipelines.dataset.order import Order, num_steps


class Settings(Protocol):
    """`finetune.training.Schedule`, or what a run recorded of it."""

    @property
    def num_epochs(self) -> float: ...
    @property
    def global_batch(self) -> int: ...
    @property
    def window_batches(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """The plan of a mixture, and which source each row of the split is of."""

    plan: MixturePlan
    names: list[str]
    codes: np.ndarray
    """(num_rows,) index into names; may be a memory map."""

    def align(self) -> np.ndarray:
        """(num_rows,) index into the sources of the plan. Raises ValueError for rows of another source."""
        planned = {each.source: code for code, each in enumerate(self.plan.sources)}
        if self.names == list(planned):
            return self.codes
        table = np.array([planned.get(name, -1) for name in self.names], dtype=np.int32)
        aligned = table[self.codes]  # (num_rows,)
        if len(aligned) and aligned.min() < 0:
            name = self.names[int(self.codes[np.argmin(aligned)])]
            raise ValueError(
                f"the split has source {name}, which the mixture does not plan; run finetune again"
            )
        return aligned


def build_order(
    lengths: np.ndarray,
    settings: Settings,
    *,
    sources: Sources | None = None,
    difficulty: Difficulty | None = None,
) -> Order:
    """The rows of every step. `lengths`: (num_rows,) tokens of each row of the split.

    Without a mixture (`sources`) and without a curriculum (`difficulty`), every row comes num_epochs times.
    """
    given: dict[str, Any] = {
        "global_batch": settings.global_batch,
        "window_batches": settings.window_batches,
        "seed": settings.seed,
    }
    total_steps = num_steps(len(lengths), global_batch=settings.global_batch, num_epochs=settings.num_epochs)
    if sources is None and difficulty is None:
        return Order(lengths, total_steps=total_steps, **given)
    if sources is None:
        # One source without a name has all rows.
        codes = np.broadcast_to(np.int8(0), len(lengths))
        plan = _plan_all(len(lengths), total_steps * settings.global_batch)
    else:
        codes, plan = sources.align(), sources.plan
        total_steps = plan.num_planned // settings.global_batch
    rows = MixedRows(codes, plan, **given, difficulty=difficulty)
    return Order(lengths, total_steps=total_steps, **given, rows=rows)


def _plan_all(num_rows: int, num_planned: int) -> MixturePlan:
    everything = SourcePlan(
        source="",
        num_sequences=num_rows,
        num_used=num_rows,
        num_planned=num_planned,
        share=1.0,
        is_limited=False,
    )
    return MixturePlan(sources=(everything,))
