"""The realised mixture: which sources the steps of a training took their sequences and tokens from."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipelines.dataset.mixing.build import Sources
from pipelines.dataset.order import Order

STEPS = 1000
"""Steps that are counted together."""


class RealisedMix:
    """Counts the rows of every step, and gives the sums of each thousand steps and of the rest."""

    def __init__(self, sources: Sources, lengths: np.ndarray, order: Order, *, first_step: int) -> None:
        """`first_step`: that of this launch. The steps before it in its thousand are counted from the order,
        which is that of the launch that trained them."""
        self._plan, self._codes = sources.plan, sources.align()
        self._lengths, self._total_steps = lengths, order.total_steps
        self._restart(first_step - first_step % STEPS)
        for step in range(self._first, first_step):
            self._add(order.batch(step))

    def count(self, num_done: int, rows: np.ndarray, *, is_last: bool = False) -> Iterator[dict[str, Any]]:
        """Add the `rows` of the step after which `num_done` are done. If a thousand or the training ends with
        it, or `is_last`: `first_step` of what is summed (from 0), and `sequences` and `tokens` by source."""
        self._add(rows)
        if num_done % STEPS == 0 or num_done == self._total_steps or is_last:
            names = [each.source for each in self._plan.sources]
            sums = {
                name: dict(zip(names, values.tolist(), strict=True))
                for name, values in (("sequences", self._sequences), ("tokens", self._tokens))
            }
            yield {"first_step": self._first, **sums}
            self._restart(num_done)

    def _restart(self, step: int) -> None:
        self._first = step
        self._sequences, self._tokens = np.zeros((2, len(self._plan.sources)), dtype=np.int64)

    def _add(self, rows: np.ndarray) -> None:
        codes = self._codes[rows]
        np.add.at(self._sequences, codes, 1)
        np.add.at(self._tokens, codes, self._lengths[rows])
