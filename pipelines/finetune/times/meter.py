"""The times of all ranks, added up with a sum that the loop makes anyway.

At every logged step each rank adds a row of numbers to the loss that the ranks sum: seconds by part, tokens,
FLOPs, and what its machine does. Every row has its own place, so the sum is all rows. Cost: no message of its
own; for 64 ranks, 9 KB every `log_every_steps`. Under local SGD the rows wait for the next synchronisation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.times.clock import StepClock
from pipelines.finetune.times.parts import PARTS

Measure = Callable[[], dict[str, float]]
"""What the machine of this rank does; always the same names. Called at logged steps."""
MOST_BYTES = 64
"""Of the name of a host."""
VALUES = (*PARTS, "num_tokens", "flops", "peak_flops")


class StepMeter:
    """Of one rank; all ranks make the same calls."""

    def __init__(
        self,
        clock: StepClock,
        strategy: Strategy,
        *,
        log_every_steps: int,
        count: Callable[[np.ndarray], tuple[int, float]],
        peak_flops: float | None,
        hosts: list[str],
        names: tuple[str, ...] = (),
        measure: Measure = dict,
    ) -> None:
        """`count(rows)`: tokens and FLOPs of the global batch's rows that this rank trains on.
        `peak_flops`: of its device, per second; None = not known. `hosts`: of all ranks. `names`: what
        `measure` may say."""
        self._clock, self._strategy, self._count = clock, strategy, count
        self._log_every_steps, self._hosts = log_every_steps, hosts
        self._names, self._measure = names, measure
        self._num_tokens, self._flops, self._peak_flops = 0, 0.0, peak_flops or 0.0
        self._is_due = False
        self._report: dict[str, Any] | None = None

    def count(self, step: int, rows: np.ndarray) -> None:
        """After each `step` (from 0), on the `rows` of a global batch."""
        num_tokens, flops = self._count(rows)
        self._num_tokens += num_tokens
        self._flops += flops
        self._is_due |= (step + 1) % self._log_every_steps == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values`, (n,) float64, over ranks, after a step or, under local SGD, after some. The
        first value is the loss. Collective."""
        if not self._is_due:
            return self._strategy.sum(values, name="loss")
        self._is_due = False
        sent = torch.cat([values.detach().cpu(), self._make_rows().reshape(-1)])
        summed = self._strategy.sum(sent, name="loss and times")
        self._report = self._describe(summed[len(values) :])
        return summed[: len(values)]

    def take_report(self) -> dict[str, Any] | None:
        """The fields of the report of the step that has just been summed; None = there is none."""
        report, self._report = self._report, None
        return report

    def finish(self) -> dict[str, Any]:
        """The report of what came after the last one. Collective."""
        return self._describe(self._strategy.sum(self._make_rows(), name="last times"))

    def _make_rows(self) -> Tensor:
        """(num_replicas, num_values) float64, zero but for the row of this rank."""
        seconds, measured = self._clock.read(), self._measure()
        values = [*(seconds[part] for part in PARTS), self._num_tokens, self._flops, self._peak_flops]
        values += [measured.get(name, float("nan")) for name in self._names]
        self._num_tokens, self._flops = 0, 0.0
        rows = torch.zeros(self._strategy.num_replicas, len(values), dtype=torch.float64)
        rows[self._strategy.data_rank] = torch.tensor(values, dtype=torch.float64)
        return rows

    def _describe(self, summed: Tensor) -> dict[str, Any]:
        rows = summed.view(self._strategy.num_replicas, -1).T.tolist()
        named = dict(zip((*VALUES, *self._names), rows, strict=True))
        system = [
            {name: named[name][rank] for name in self._names if named[name][rank] == named[name][rank]}
            for rank in range(self._strategy.num_replicas)
        ]
        return {
            "seconds": {part: [round(value, 6) for value in named[part]] for part in PARTS},
            **{name: named[name] for name in ("num_tokens", "flops", "peak_flops")},
            "hosts": self._hosts,
            **({"system": system} if self._names else {}),
        }


def gather_hosts(strategy: Strategy, host: str) -> list[str]:
    """The host of each rank, cut to MOST_BYTES. Collective."""
    own = list(host.encode("ascii", "replace")[:MOST_BYTES])
    codes = torch.zeros(strategy.num_replicas, MOST_BYTES)
    codes[strategy.data_rank, : len(own)] = torch.tensor(own, dtype=codes.dtype)
    rows = strategy.sum(codes, name="hosts").to(torch.uint8).tolist()
    return [bytes(row).rstrip(b"\0").decode() for row in rows]
