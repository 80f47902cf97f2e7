"""Metrics of a model over the rows of a split, each row once, for any number of ranks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from pipelines.dataset.order import permute
from pipelines.dataset.reader import SequenceReader
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.prefetch import prefetch
from pipelines.finetune.tasks.task import Draw, Task

EVALUATION_SEED = 0
"""Of random choices in an evaluation: the same for every training, so that their values compare."""


class Evaluation(NamedTuple):
    metrics: dict[str, float]
    confusion: np.ndarray | None
    """(C, C) counts, row = expected, column = predicted; None for tasks without classes."""
    num_rows: int
    """Rows measured, over all ranks."""


def evaluate(
    task: Task,
    reader: SequenceReader,
    strategy: Strategy,
    *,
    batch_rows: int,
    max_rows: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Evaluation:
    """Collective: all ranks call it, and each runs the same number of forward passes, because a strategy may
    exchange weights in them. Rows are taken by length, so that little is padded; `progress` gets the fraction
    done. If the split has more than `max_rows` rows, as many are measured, the same ones every time and for
    any number of ranks.
    """
    chosen = choose_rows(len(reader), max_rows)  # (num_rows,)
    by_length = chosen[np.argsort(reader.lengths[chosen], kind="stable")]
    by_length = by_length[strategy.data_rank :: strategy.num_replicas]
    if not len(by_length):
        raise ValueError(
            f"rank {strategy.rank} has no rows to evaluate: "
            f"the split has {len(reader)} rows for {strategy.num_replicas} replicas, and "
            f"finetune.max_evaluation_sequences is {max_rows}"
        )
    total: torch.Tensor | None = None
    most_rows = -(-len(chosen) // strategy.num_replicas)  # of the replicas; others have one row less
    starts = range(0, most_rows, batch_rows)
    parts = [by_length[first : first + batch_rows] for first in starts]
    # A replica that has no rows left repeats its first one, and does not count it.
    taken = (rows if len(rows) else by_length[:1] for rows in parts)
    made = (
        task.collate(reader.rows(rows), strategy.device, Draw(rows, EVALUATION_SEED, None)) for rows in taken
    )
    with prefetch(made) as batches:
        for first, rows, batch in zip(starts, parts, batches, strict=True):
            outputs = strategy.forward(batch)
            if len(rows):
                with torch.inference_mode():
                    total = task.sums(outputs, batch, total)
            progress(min(1.0, (first + batch_rows) / most_rows))
    assert total is not None, "every replica has a row"
    summed = strategy.sum(total, name="evaluation")
    return Evaluation(task.metrics(summed), task.confusion(summed), len(chosen))


def choose_rows(num_rows: int, max_rows: int | None) -> np.ndarray:
    """(at most max_rows,) row numbers in order: all, or a fixed random choice. O(max_rows)."""
    if max_rows is None or num_rows <= max_rows:
        return np.arange(num_rows)
    return np.sort(permute(np.arange(max_rows), num_rows, seed=0, epoch=0))
