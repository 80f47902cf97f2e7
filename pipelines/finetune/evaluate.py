"""Metrics of a model over every row of a split, each row once, whatever the number of ranks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from pipelines.dataset.reader import SequenceReader
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.tasks.task import Task


class Evaluation(NamedTuple):
    metrics: dict[str, float]
    confusion: np.ndarray | None
    """(C, C) counts, row = expected, column = predicted."""


def evaluate(
    model: nn.Module,
    task: Task,
    reader: SequenceReader,
    strategy: Strategy,
    *,
    batch_rows: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Evaluation:
    """Collective: all ranks call it. Rows are taken by length, so little is padded; `progress` gets the share done."""
    by_length = np.argsort(reader.lengths, kind="stable")[strategy.rank :: strategy.world_size]
    model.eval()
    total: torch.Tensor | None = None
    with torch.inference_mode():
        for first in range(0, len(by_length), batch_rows):
            batch = task.collate(reader.rows(by_length[first : first + batch_rows]), strategy.device)
            sums = task.sums(model(**batch.inputs), batch)
            total = sums if total is None else total + sums
            progress(min(1.0, (first + batch_rows) / len(by_length)))
    if total is None:
        raise ValueError(
            f"rank {strategy.rank} has no rows to evaluate: "
            f"the split has {len(reader)} rows for {strategy.world_size} ranks"
        )
    summed = strategy.sum(total.clone(), name="evaluation")
    return Evaluation(task.metrics(summed), task.confusion(summed))
