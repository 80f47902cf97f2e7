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
    """Collective: all ranks call it. Rows are taken by length, so that little is padded; `progress` gets the
    fraction done.
    """
    by_length = np.argsort(reader.lengths, kind="stable")[strategy.data_rank :: strategy.num_replicas]
    if not len(by_length):
        raise ValueError(
            f"rank {strategy.rank} has no rows to evaluate: "
            f"the split has {len(reader)} rows for {strategy.num_replicas} replicas"
        )
    total = torch.zeros(())
    for first in range(0, len(by_length), batch_rows):
        batch = task.collate(reader.rows(by_length[first : first + batch_rows]), strategy.device)
        outputs = strategy.forward(batch)
        with torch.inference_mode():
            sums = task.sums(outputs, batch)
        total = sums if first == 0 else total + sums
        progress(min(1.0, (first + batch_rows) / len(by_length)))
    summed = strategy.sum(total, name="evaluation")
    return Evaluation(task.metrics(summed), task.confusion(summed))
