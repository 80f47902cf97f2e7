"""Token lists of unequal length to rectangular tensors. Shapes: B rows, T tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")
"""Model types that number positions from behind the padding token."""


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


def make_inputs(
    ids_BT: np.ndarray, segment_lengths: Sequence[np.ndarray], device: torch.device
) -> dict[str, Tensor]:
    """input_ids_BT and attention_mask_BT; if one row holds several documents, all get position_ids_BT and
    segment_ids_BT, too."""
    lengths_B = np.array([lengths.sum() for lengths in segment_lengths], dtype=np.int32)
    is_real_BT = np.arange(ids_BT.shape[1], dtype=np.int32) < lengths_B[:, None]
    arrays = {"input_ids_BT": ids_BT, "attention_mask_BT": is_real_BT}
    if any(len(lengths) > 1 for lengths in segment_lengths):
        positions_BT, segments_BT = _number_documents(segment_lengths, ids_BT.shape[1])
        arrays |= {"position_ids_BT": positions_BT, "segment_ids_BT": segments_BT}
    return {name: send(array, device) for name, array in arrays.items()}


def position_offset(config: Any) -> int:
    """The position that a model of transformers gives to the first token."""
    return (config.pad_token_id or 0) + 1 if config.model_type in OFFSET_POSITIONS else 0


def _number_documents(segment_lengths: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions, segments), both (B, width) int32: place of each token in its document, number of the
    document.

    Padding counts as one more document, so that no real token shares a document with it.
    """
    runs, numbers = list[int](), list[int]()
    for lengths in segment_lengths:
        mine = lengths.tolist()
        mine.append(width - sum(mine))  # the padding
        runs += mine
        numbers += range(len(mine))
    # Runs are few and tokens many: one array operation for all rows, not one per document.
    starts = np.cumsum([0, *runs[:-1]], dtype=np.int32)  # (num_runs,) first token, counted through all rows
    shape = (len(segment_lengths), width)
    segments_BT = np.repeat(np.array(numbers, dtype=np.int32), runs).reshape(shape)
    places_BT = np.arange(shape[0] * width, dtype=np.int32).reshape(shape)
    return places_BT - np.repeat(starts, runs).reshape(shape), segments_BT
