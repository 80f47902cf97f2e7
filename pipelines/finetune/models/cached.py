"""Rows of tokens that grow: the logits of the next token, with the keys and values of the earlier ones kept.

Without a cache, T new tokens after P others cost T forward passes of P to P + T tokens; with one, a pass of P
tokens and T passes of one. It holds two vectors for each token, row and layer (GPT-2 small in float32: 74 kB
a token), which is what `batch_size` of scoring has to leave room for.

Rows are padded on the left, so that the last column is the newest token of each, and distances between the
tokens of a row, which sliding windows count, are what they are without padding. No attribute says what an
architecture makes of positions and a mask at the same time. So a probe compares both ways, once for each
model; one that fails it (state-space models have no keys; others take no positions) reads whole rows.

Shapes: B rows, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.finetune.models.decoder import Decoder
from pipelines.finetune.models.padding import pad, position_offset, send
from pipelines.finetune.models.preference import PreferenceDecoder

PROBED = ([5, 6, 7], [8, 9, 10, 11, 12, 13])
"""Rows of the probe: one is padded; each grows by two tokens."""
PROBE_TOLERANCE, COARSE_TOLERANCE = 1e-4, 5e-2
"""Largest difference of logits, relative to the largest logit, in float32 and in shorter numbers. A position
that is off by one changes them by 1e-2 and more."""

_keeps: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Model -> whether the probe succeeded."""


class Rows(Protocol):
    """Rows that a model reads."""

    def predict(self, rows: Sequence[list[int]], kept: Sequence[int]) -> Tensor:
        """Logits (B, V) of the token behind each row. Each is one of the call before, of whose rows `kept`
        tells the places, with one more token."""
        ...


class WholeRows:
    """Reads every row from its beginning each time."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def predict(self, rows: Sequence[list[int]], kept: Sequence[int]) -> Tensor:
        ids_BT, mask_BT = pad(rows, next(self._model.parameters()).device)
        last_B = mask_BT.sum(1) - 1
        logits_BTV = self._model(input_ids_BT=ids_BT, attention_mask_BT=mask_BT)
        return logits_BTV[torch.arange(len(rows), device=last_B.device), last_B]


class CachedRows:
    """Reads each token once."""

    def __init__(self, model: Decoder | PreferenceDecoder) -> None:
        self._decoder = model.decoder
        self._offset = position_offset(model.config)
        self._device = next(model.parameters()).device
        self._cache: Any = None
        self._mask_BT: Tensor

    def predict(self, rows: Sequence[list[int]], kept: Sequence[int]) -> Tensor:
        if self._cache is None:
            ids_BT, self._mask_BT = _pad_left(rows, self._device)
            return self._read(ids_BT, (self._mask_BT.cumsum(1) - 1).clamp(min=0))
        if len(kept) < len(self._mask_BT):
            places_B = torch.tensor(kept, device=self._device)
            self._cache.batch_select_indices(places_B)
            self._mask_BT = self._mask_BT[places_B]
        newest_B1 = torch.tensor([row[-1:] for row in rows], device=self._device)
        self._mask_BT = torch.cat([self._mask_BT, torch.ones_like(newest_B1, dtype=torch.bool)], dim=1)
        lengths_B = torch.tensor([len(row) for row in rows], device=self._device)
        return self._read(newest_B1, lengths_B[:, None] - 1)

    def _read(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """The last logits, (B, V): those of a whole prompt would take more memory than the model."""
        output = self._decoder(
            input_ids=ids_BT.long(),
            attention_mask=self._mask_BT.long(),
            position_ids=positions_BT + self._offset,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        return output.logits[:, -1]


def open_rows(model: nn.Module) -> Rows:
    """Rows that have not been read yet. Eval mode is the caller's."""
    if isinstance(model, Decoder | PreferenceDecoder) and keeps_values(model):
        return CachedRows(model)
    return WholeRows(model)


@torch.no_grad()
def keeps_values(model: Decoder | PreferenceDecoder) -> bool:
    """Whether the model predicts the same with a cache: six short forward passes, once for each model."""
    if model not in _keeps:
        _keeps[model] = not _has_growing_positions(model.config) and _probe(model)
    return _keeps[model]


def _has_growing_positions(config: Any) -> bool:
    """Whether the angles of all positions change with the length of the text: kept keys are of the old ones,
    and a short probe does not see it."""
    found = getattr(config, "rope_parameters", None) or {}
    kinds = [found, *(each for each in found.values() if isinstance(each, dict))]
    return any(each.get("rope_type") in ("dynamic", "longrope") for each in kinds)


def _probe(model: Decoder | PreferenceDecoder) -> bool:
    was_training = model.training
    model.eval()
    try:
        rows = [[token % model.config.vocab_size for token in row] for row in PROBED]
        cached, whole = CachedRows(model), WholeRows(model)
        is_equal = _is_close(cached.predict(rows, [0, 1]), whole.predict(rows, [0, 1]))
        for kept in ([0, 1], [0]):
            rows = [[*rows[place], place] for place in kept]
            is_equal &= _is_close(cached.predict(rows, kept), whole.predict(rows, kept))
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False  # it takes no positions, or gives no cache, or another kind of one
    finally:
        model.train(was_training)
    return is_equal


def _is_close(one: Tensor, other: Tensor) -> bool:
    tolerance = PROBE_TOLERANCE if one.dtype == torch.float32 else COARSE_TOLERANCE
    largest = float(other.abs().max())
    return float((one - other).abs().max()) <= tolerance * largest


def _pad_left(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask): (B, T) int32 padded on the left with id 0, and (B, T) bool, true at real tokens."""
    lengths_B = np.array([len(row) for row in rows])
    width = int(lengths_B.max())
    ids_BT = np.zeros((len(rows), width), dtype=np.int32)
    for row, tokens in enumerate(rows):
        ids_BT[row, width - len(tokens) :] = tokens
    return send(ids_BT, device), send(np.arange(width) >= width - lengths_B[:, None], device)
