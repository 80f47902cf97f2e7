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
    shape = (len(rows), max((len(row) for row in rows), default=0))
    ids_BT, mask_BT = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=bool)
    for row, tokens in enumerate(rows):
        ids_BT[row, : len(tokens)] = tokens
        mask_BT[row, : len(tokens)] = True
    return torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT).to(device)


def make_inputs(
    rows: Sequence[np.ndarray], segment_lengths: Sequence[np.ndarray], device: torch.device
) -> dict[str, Tensor]:
    """input_ids_BT and attention_mask_BT; if one row holds several documents, all get position_ids_BT and
    segment_ids_BT, too."""
    ids_BT, mask_BT = pad(rows, device)
    inputs = {"input_ids_BT": ids_BT, "attention_mask_BT": mask_BT}
    if any(len(lengths) > 1 for lengths in segment_lengths):
        inputs["position_ids_BT"], inputs["segment_ids_BT"] = (
            torch.from_numpy(each).to(device) for each in _number_documents(segment_lengths, ids_BT.shape[1])
        )
    return inputs


def position_offset(config: Any) -> int:
    """The position that a model of transformers gives to the first token."""
    return (config.pad_token_id or 0) + 1 if config.model_type in OFFSET_POSITIONS else 0


def _number_documents(segment_lengths: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions, segments), both (B, width) int32: place of each token in its document, number of the
    document.

    Padding counts as one more document, so that no real token shares a document with it.
    """
    shape = (len(segment_lengths), width)
    positions_BT, segments_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, lengths in enumerate(segment_lengths):
        padding = width - int(lengths.sum())
        runs = [*lengths.tolist(), padding]
        segments_BT[row] = np.repeat(np.arange(len(runs)), runs)
        positions_BT[row] = np.concatenate([np.arange(run) for run in runs])
    return positions_BT, segments_BT
