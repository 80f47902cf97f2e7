"""A transformers decoder reduced to its logits. Packed documents do not see each other.

Shapes: B sequences, T tokens, V vocabulary.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

PROBE_TOKENS = 4
"""Tokens of each of the three documents of the probe."""
PROBE_TOLERANCE = 1e-5
"""Largest change at a neighbour, relative to the change inside. Attention leaks nothing (measured: 0),
state-space and ALiBi models leak 1e-3 and more.
"""


class Decoder(nn.Module):
    """A causal language model.

    Packed rows go to the backbone with positions that start again at 0 in each document and without a mask:
    from these, transformers builds a mask that is causal inside each document, for every attention
    implementation and with the layer's own sliding window. A ready 4-D mask would do less: it replaces the
    sliding window too.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = decoder
        self.separates_documents: bool | None = None
        """Whether packed documents are independent; null = not probed yet (see `probe_separation`)."""

    @property
    def config(self) -> PreTrainedConfig:
        return self.decoder.config

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
        input_ids_BT = input_ids_BT.long()
        if segment_ids_BT is None:
            positions = {} if position_ids_BT is None else {"position_ids": position_ids_BT.long()}
            mask_BT = attention_mask_BT.long()
            return self.decoder(
                input_ids=input_ids_BT, attention_mask=mask_BT, use_cache=False, **positions
            ).logits
        if position_ids_BT is None:
            raise ValueError("packed rows (segment_ids_BT) need position_ids_BT; collate makes both")
        if self.separates_documents is False:
            raise ValueError(
                f"model type {self.config.model_type} lets packed documents see each other; "
                "set dataset.packing.method=one_per_document, or take a decoder such as llama, qwen2 or gpt2"
            )
        return self._packed_logits(input_ids_BT, position_ids_BT.long())

    def _packed_logits(self, input_ids_BT: Tensor, position_ids_BT: Tensor) -> Tensor:
        return self.decoder(input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False).logits

    @torch.no_grad()
    def probe_separation(self) -> bool:
        """Try whether packed documents are independent, and remember the answer: two forward passes of 12
        tokens.

        Architectures differ in what they make of positions without a mask, and no attribute says it. So the
        middle one of three documents is exchanged: the logits of its neighbours must stay, its own must
        change.
        """
        positions_1T = torch.arange(PROBE_TOKENS).repeat(3)[None]
        tokens_1T = torch.arange(positions_1T.numel())[None] + 3
        exchanged_1T = tokens_1T.clone()
        middle = slice(PROBE_TOKENS, 2 * PROBE_TOKENS)
        exchanged_1T[:, middle] = tokens_1T[:, middle].flip(1) + positions_1T.numel()

        was_training = self.training
        self.eval()
        try:
            first, second = (
                self._packed_logits(ids % self.config.vocab_size, positions_1T)
                for ids in (tokens_1T, exchanged_1T)
            )
        except (TypeError, ValueError):  # no position_ids in its signature
            self.separates_documents = False
            return False
        finally:
            self.train(was_training)

        change_T = (first - second).abs().amax(-1)[0]
        inside = float(change_T[middle].max())
        outside = max(float(change_T[:PROBE_TOKENS].max()), float(change_T[2 * PROBE_TOKENS :].max()))
        # A model whose logits do not change at all proves nothing.
        self.separates_documents = inside > 0 and outside <= PROBE_TOLERANCE * inside
        return self.separates_documents
