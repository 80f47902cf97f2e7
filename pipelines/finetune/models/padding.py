"""Token lists of unequal length to rectangular tensors. Shapes: B rows, T tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pad(rows: Sequence[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask): (B, T) int32 padded on the right with id 0, and (B, T) bool, true at real tokens.

    T is the longest row. Rows are lists or arrays of token ids. 5 bytes per token go to the device; the
    models make int64 of them there.
    """
    shape = (len(rows), max((len(row) for row in rows), default=0))
    ids_BT, mask_BT = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=bool)
    for row, tokens in enumerate(rows):
        ids_BT[row, : len(tokens)] = tokens
        mask_BT[row, : len(tokens)] = True
    return torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT).to(device)
