"""A transformers encoder with its masked language modelling head. Packed documents do not see each other.

Shapes: B sequences, T tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from pipelines.finetune.models.padding import position_offset

PROBE_LENGTHS = (3, 5, 4)
"""Tokens of the documents of the probe."""
PROBE_TOLERANCE = 1e-4
"""Largest difference between the logits of a packed document and of the same one alone, relative to the
largest logit."""


class MaskedEncoder(nn.Module):
    """An encoder that predicts masked tokens; the weights of its last layer are the token embeddings where
    the architecture ties them.

    Packed rows go to the backbone with a 4-D mask, which transformers takes as it is, and with positions that
    start again in each document.
    """

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.separates_documents: bool | None = None
        """Whether packed documents are independent; null = not probed yet (see `probe_separation`)."""

    @property
    def config(self) -> PreTrainedConfig:
        return self.encoder.config

    def forward(
        self,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor,
        position_ids_BT: Tensor | None = None,
        segment_ids_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V). `attention_mask_BT` is true at real tokens; ids may have any integer type.

        With `segment_ids_BT` (document number of each token, padding is a document of its own) the rows are
        packed and `position_ids_BT` is required. Raises ValueError if the architecture can't keep documents
        apart.
        """
        # int32 and bool travel to the device, int64 is what every architecture accepts as index and mask.
        ids_BT = input_ids_BT.long()
        if segment_ids_BT is None:
            return self.encoder(input_ids=ids_BT, attention_mask=attention_mask_BT.long()).logits
        if position_ids_BT is None:
            raise ValueError("packed rows (segment_ids_BT) need position_ids_BT; collate makes both")
        if self.separates_documents is False:
            raise ValueError(
                f"model type {self.config.model_type} can't keep packed documents apart; "
                "set dataset.packing.method=one_per_document, or take an encoder such as bert or roberta"
            )
        return self._packed_logits(ids_BT, position_ids_BT.long(), segment_ids_BT)

    def _packed_logits(self, ids_BT: Tensor, position_ids_BT: Tensor, segment_ids_BT: Tensor) -> Tensor:
        is_same_BTT = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
        dtype = self.encoder.dtype
        hidden = torch.finfo(dtype).min
        mask_B1TT = torch.zeros(is_same_BTT.shape, dtype=dtype, device=ids_BT.device)
        mask_B1TT = mask_B1TT.masked_fill_(~is_same_BTT, hidden)[:, None]
        positions_BT = position_ids_BT + position_offset(self.config)
        return self.encoder(input_ids=ids_BT, attention_mask=mask_B1TT, position_ids=positions_BT).logits

    @torch.no_grad()
    def probe_separation(self) -> bool:
        """Try whether documents that share a row get the logits that they get alone, and remember the answer:
        forward passes of 24 tokens in all.

        Architectures differ in what they make of a ready mask and of positions, and no attribute says it. A
        short probe can't see a sliding window, which a ready mask replaces: an encoder with one is refused.
        """
        kinds = getattr(self.config, "layer_types", None) or ()
        if any("sliding" in str(kind) for kind in kinds):
            self.separates_documents = False
            return False
        size = sum(PROBE_LENGTHS)
        lengths = torch.tensor(PROBE_LENGTHS)
        # From 3 on: the ids below are often padding, which some architectures treat apart.
        ids_1T = ((torch.arange(size) + 3) % self.config.vocab_size)[None]
        positions_1T = torch.cat([torch.arange(length) for length in PROBE_LENGTHS])[None]
        segments_1T = torch.repeat_interleave(torch.arange(len(PROBE_LENGTHS)), lengths)[None]
        was_training = self.training
        self.eval()  # dropout would draw random numbers
        try:
            parts: Any = ids_1T.split(PROBE_LENGTHS, dim=1)
            alone = torch.cat([self(part, torch.ones_like(part)) for part in parts], dim=1)
            packed = self._packed_logits(ids_1T, positions_1T, segments_1T)
        except (TypeError, ValueError, RuntimeError, IndexError):  # no position_ids, or no 4-D masks
            self.separates_documents = False
            return False
        finally:
            self.train(was_training)
        largest = float(alone.abs().max())
        self.separates_documents = (
            largest > 0 and float((packed - alone).abs().max()) <= PROBE_TOLERANCE * largest
        )
        return self.separates_documents
