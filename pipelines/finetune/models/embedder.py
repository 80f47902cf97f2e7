"""A transformers backbone that makes one vector of a text. Shapes: N texts, T tokens, H hidden."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedConfig, PreTrainedModel

from pipelines.finetune.models.architecture import Pooling


class TextEmbedder(nn.Module):
    """The last hidden states of a text, pooled and divided by their L2 norm: products are cosines."""

    def __init__(self, encoder: PreTrainedModel, pooling: Pooling) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling

    @property
    def config(self) -> PreTrainedConfig:
        return self.encoder.config

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """(N, H) of unit length. `attention_mask_BT` is true at real tokens; padding is on the right.

        16-bit hidden states are pooled in float32: a mean of hundreds of them would lose its last digits.
        """
        # int32 and bool travel to the device, int64 is what every architecture accepts as index and mask.
        mask_NT = attention_mask_BT.long()
        encoded = self.encoder(input_ids=input_ids_BT.long(), attention_mask=mask_NT)
        hidden_NTH = encoded.last_hidden_state
        if hidden_NTH.dtype in (torch.float16, torch.bfloat16):
            hidden_NTH = hidden_NTH.float()
        return normalize(self._pool(hidden_NTH, mask_NT), dim=-1)

    def _pool(self, hidden_NTH: Tensor, mask_NT: Tensor) -> Tensor:
        if self.pooling == "cls":
            return hidden_NTH[:, 0]
        if self.pooling == "last":
            last_N = mask_NT.sum(1).clamp(min=1) - 1
            return hidden_NTH[torch.arange(len(last_N), device=last_N.device), last_N]
        weight_NT1 = mask_NT.unsqueeze(-1).to(hidden_NTH.dtype)
        return (hidden_NTH * weight_NT1).sum(1) / weight_NT1.sum(1).clamp(min=1.0)
