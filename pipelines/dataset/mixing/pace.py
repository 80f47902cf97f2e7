"""Easy before hard: the order of some rows under a curriculum."""

import numpy as np

from pipelines.dataset.mixing.rules import Curriculum

NUM_STAGES = 100
"""Parts of the curriculum. In each, rows come at random from those that may come and have not come yet."""


def choose_dtype(num_rows: int) -> type[np.signedinteger]:
    """Of numbers below `num_rows`."""
    return np.int32 if num_rows <= 2**31 else np.int64


def order_by_pace(values: np.ndarray, curriculum: Curriculum, generator: np.random.Generator) -> np.ndarray:
    """(num_rows,) numbers of the rows with `values`, in the order in which they come; each comes once.

    Rows of equal value are easy in their given order. No row comes before its stage of the curriculum:
    the easiest c(x) are there at progress x, and always enough to fill the stage.
    """
    num_rows = len(values)
    keys = -np.asarray(values, dtype=np.float64) if curriculum.descending else values
    by_ease = np.argsort(keys, kind="stable").astype(choose_dtype(num_rows))  # (num_rows,)
    del keys
    stops = np.linspace(0, num_rows, NUM_STAGES + 1).astype(np.int64)
    ordered = np.empty(num_rows, dtype=by_ease.dtype)
    waiting, admitted = by_ease[:0], 0
    for stage in range(NUM_STAGES):
        first, stop = int(stops[stage]), int(stops[stage + 1])
        allowed = int(np.ceil(num_rows * curriculum.find_competence(stage / NUM_STAGES)))
        newly = max(admitted, min(num_rows, allowed), stop)
        waiting = generator.permutation(np.concatenate([waiting, by_ease[admitted:newly]]))
        ordered[first:stop], waiting, admitted = waiting[: stop - first], waiting[stop - first :], newly
    return ordered
