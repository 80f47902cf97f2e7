"""Metrics of a model over every row of a split, each row once, for any number of ranks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from pipelines.dataset.reader import SequenceReader
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.tasks.task import Task


class Evaluation(NamedTuple):
    metrics: dict[str, float]
    confusion: np.ndarray | None
    """(C, C) counts, row = expected, column = predicted; None for tasks without classes."""


def evaluate(
    task: Task,
    reader: SequenceReader,
    strategy: Strategy,
    *,
    batch_rows: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Evaluation:
    """Collective: all ranks call it, and each runs the same number of forward passes, because a strategy may
    exchange weights in them. Rows are taken by length, so that little is padded; `progress` gets the fraction
    done.
    """
    by_length = np.argsort(reader.lengths, kind="stable")[strategy.data_rank :: strategy.num_replicas]
    if not len(by_length):
        raise ValueError(
            f"rank {strategy.rank} has no rows to evaluate: "
            f"the split has {len(reader)} rows for {strategy.num_replicas} replicas"
        )
    total = torch.zeros(())
    most_rows = -(-len(reader) // strategy.num_replicas)  # of the replicas; others have one row less
    for first in range(0, most_rows, batch_rows):
        rows = by_length[first : first + batch_rows]
        # A replica that has no rows left repeats its first one, and does not count it.
        batch = task.collate(reader.rows(rows if len(rows) else by_length[:1]), strategy.device)
        outputs = strategy.forward(batch)
        if len(rows):
            with torch.inference_mode():
                sums = task.sums(outputs, batch)
            total = sums if first == 0 else total + sums
        progress(min(1.0, (first + batch_rows) / most_rows))
    summed = strategy.sum(total, name="evaluation")
    return Evaluation(task.metrics(summed), task.confusion(summed))
