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
    return send(stack(rows, np.int32), device), send(mark_real(rows), device)


def stack(rows: Sequence[Any], dtype: type[np.generic]) -> np.ndarray:
    """(B, T) values of the rows, padded on the right with zero; T is the longest row."""
    lengths = [len(row) for row in rows]
    width = max(lengths, default=0)
    if width and min(lengths) == width:  # packed rows mostly are: one copy instead of one per row
        return np.concatenate(rows, dtype=dtype, casting="same_kind").reshape(len(rows), width)
    values_BT = np.zeros((len(rows), width), dtype=dtype)
    for row, values in enumerate(rows):
        values_BT[row, : lengths[row]] = values
    return values_BT


def mark_real(rows: Sequence[Any]) -> np.ndarray:
    """(B, T) bool, true at the values of each row, false at its padding."""
    lengths_B = np.array([len(row) for row in rows], dtype=np.int32)
    width = int(lengths_B.max(initial=0))
    if (lengths_B == width).all():
        return np.ones((len(rows), width), dtype=bool)
    return np.arange(width, dtype=np.int32) < lengths_B[:, None]


def send(values: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor on the device. The caller does not wait for a copy to a GPU: it starts from
    pinned memory, which torch reuses when the copy is done."""
    if device.type == "cpu":
        return torch.from_numpy(values)
    host = torch.empty(values.shape, dtype=torch.from_numpy(values).dtype, pin_memory=True)
    host.numpy()[...] = values
    return host.to(device, non_blocking=True)
