"""Metrics of a model over the rows of a split, each row once, for any number of ranks."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines.dataset.order import permute
from pipelines.dataset.reader import SequenceReader
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.parallel.whole_batch import join_batches
from pipelines.finetune.prefetch import prefetch
from pipelines.finetune.tasks.task import COMPARED_ROWS, Batch, Draw, Task

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
    any number of ranks. So are the blocks in which a task compares rows.
    """
    chosen = choose_rows(len(reader), max_rows)  # (num_rows,)
    if len(chosen) < strategy.num_replicas:
        raise ValueError(
            f"rank {strategy.rank} has no rows to evaluate: "
            f"the split has {len(reader)} rows for {strategy.num_replicas} replicas, and "
            f"finetune.max_evaluation_sequences is {max_rows}"
        )
    split = split_compared if task.compares_rows else split_by_length
    blocks = split(chosen, reader.lengths, strategy.data_rank, strategy.num_replicas, batch_rows)
    # A replica that has no rows left repeats one, and does not count it.
    taken = (rows if len(rows) else chosen[:1] for parts in blocks for rows in parts)
    made = (
        task.collate(reader.rows(rows), strategy.device, Draw(rows, EVALUATION_SEED, None)) for rows in taken
    )
    total: Tensor | None = None
    with prefetch(made) as batches:
        for number, parts in enumerate(blocks, 1):
            counts = [len(rows) for rows in parts]
            total = add_block(task, strategy, counts, islice(batches, len(parts)), total)
            progress(number / len(blocks))
    assert total is not None, "there is a block"
    summed = strategy.sum(total, name="evaluation")
    return Evaluation(task.metrics(summed), task.confusion(summed), len(chosen))


def add_block(
    task: Task, strategy: Strategy, counts: Sequence[int], batches: Iterable[Batch], total: Tensor | None
) -> Tensor:
    """`total` with the sums of one block. Each batch is a forward pass; those of 0 rows do not count. A
    function, so that no outputs of a block are held while the next one is computed.
    """
    taking = zip(counts, batches, strict=True)
    passes = [(num_rows, batch, strategy.forward(batch)) for num_rows, batch in taking]
    counted = [(outputs, batch) for num_rows, batch, outputs in passes if num_rows]
    with torch.inference_mode():
        if counted:
            return task.sums(*join_batches(*zip(*counted, strict=True)), total)
        if total is not None:
            return total
        _, batch, outputs = passes[0]
        return torch.zeros_like(task.sums(outputs, batch))


Blocks = list[list[np.ndarray]]
"""Of one replica: the rows of each block, in parts of which each is one forward pass; some may be empty. All
replicas have as many blocks with as many parts."""


def split_by_length(
    chosen: np.ndarray, lengths: np.ndarray, data_rank: int, num_replicas: int, batch_rows: int
) -> Blocks:
    """Blocks of one part, by length."""
    mine = chosen[np.argsort(lengths[chosen], kind="stable")][data_rank::num_replicas]
    most_rows = -(-len(chosen) // num_replicas)  # of the replicas; others have one row less
    return [[mine[first : first + batch_rows]] for first in range(0, most_rows, batch_rows)]


def split_compared(
    chosen: np.ndarray, lengths: np.ndarray, data_rank: int, num_replicas: int, batch_rows: int
) -> Blocks:
    """Blocks of rows that are compared with each other: at most COMPARED_ROWS, chosen at random, whatever the
    number of replicas. They differ by one row at most, because a small block is easier than a large one."""
    num_blocks = -(-len(chosen) // COMPARED_ROWS)
    mixed = chosen[permute(np.arange(len(chosen)), len(chosen), seed=EVALUATION_SEED, epoch=0)]
    num_parts = -(-len(mixed[::num_blocks]) // batch_rows)  # of the largest block
    blocks = []
    for number in range(data_rank, -(-num_blocks // num_replicas) * num_replicas, num_replicas):
        rows = mixed[number::num_blocks] if number < num_blocks else mixed[:0]
        by_length = rows[np.argsort(lengths[rows], kind="stable")]
        blocks.append(np.array_split(by_length, num_parts))
    return blocks


def choose_rows(num_rows: int, max_rows: int | None) -> np.ndarray:
    """(at most max_rows,) row numbers in order: all, or a fixed random choice. O(max_rows)."""
    if max_rows is None or num_rows <= max_rows:
        return np.arange(num_rows)
    return np.sort(permute(np.arange(max_rows), num_rows, seed=0, epoch=0))
