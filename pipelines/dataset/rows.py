"""Rows of the sequences table as arrays: what the reader gives and a task takes.

NumPy only, because models that are served need tasks, but neither Arrow nor Delta.
"""

from typing import NamedTuple

import numpy as np

NO_LABEL = -100
"""Label of a row without a class."""
LABEL_SET = -101
"""Label of a row with a set of classes."""


class Rows(NamedTuple):
    """Some rows of a split, in the order asked for."""

    input_ids: list[np.ndarray]
    """Per row (num_tokens,) int32."""
    is_target: list[np.ndarray]
    """Per row (num_tokens,) bool: tokens that the loss counts, each predicted from the tokens before it in
    its own segment. So the first token of a segment is never a target."""
    segment_lengths: list[np.ndarray]
    """Per row (num_segments,) int32: tokens of each document's run; they sum to num_tokens."""
    labels: np.ndarray
    """(num_rows,) int64 class numbers; NO_LABEL = none, LABEL_SET = those in `label_sets`."""
    num_targets: np.ndarray
    """(num_rows,) int64 terms that the row adds to the loss."""
    num_bytes: np.ndarray
    """(num_rows,) int64 UTF-8 bytes of the text behind the targets."""
    label_sets: list[np.ndarray] | None = None
    """Per row (num_classes,) int32 class numbers, ascending; None = no row has a set of classes."""
