"""A transformers decoder reduced to its logits, or to the losses of its targets. Packed documents do not see
each other.

Shapes: B sequences, T tokens, V vocabulary, H hidden, N targets.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from pipelines.dataset.rows import NO_LABEL
from pipelines.finetune.models.architecture import NO_NEXT_TOKENS
from pipelines.finetune.models.token_losses import compute_token_losses

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
        self._max_logit_tokens: int | None = None

    @property
    def config(self) -> PreTrainedConfig:
        return self.decoder.config

    def forward(
        self,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor,
        position_ids_BT: Tensor | None = None,
        segment_ids_BT: Tensor | None = None,
        targets_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V). After `limit_logits` and with `targets_BT` (token ids, NO_LABEL = does not count)
        instead the losses (N,) in nats of the targets but the first of each row, which nothing predicts.
        `attention_mask_BT` is true at real tokens; ids may have any integer type.

        With `segment_ids_BT` (document number of each token, padding is a document of its own) the rows are
        packed and `position_ids_BT` is required. Raises ValueError if the architecture can't keep documents
        apart.
        """
        inputs = self._choose_inputs(input_ids_BT, attention_mask_BT, position_ids_BT, segment_ids_BT)
        if targets_BT is None or self._max_logit_tokens is None:
            return self.decoder(**inputs).logits
        hidden_BTH = self._backbone.base_model(**inputs).last_hidden_state
        next_BT = targets_BT[:, 1:].long()
        counts_BT = next_BT != NO_LABEL
        head = self._backbone.get_output_embeddings()
        return compute_token_losses(
            hidden_BTH[:, :-1][counts_BT], next_BT[counts_BT], head, self._max_logit_tokens
        )

    def _choose_inputs(
        self,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor,
        position_ids_BT: Tensor | None,
        segment_ids_BT: Tensor | None,
    ) -> dict[str, Any]:
        """Keyword arguments of the backbone."""
        # int32 and bool travel to the device, int64 is what every architecture accepts as index and mask.
        inputs: dict[str, Any] = {"input_ids": input_ids_BT.long(), "use_cache": False}
        if segment_ids_BT is None:
            inputs["attention_mask"] = attention_mask_BT.long()
            if position_ids_BT is not None:
                inputs["position_ids"] = position_ids_BT.long()
            return inputs
        if position_ids_BT is None:
            raise ValueError("packed rows (segment_ids_BT) need position_ids_BT; collate makes both")
        if self.separates_documents is False:
            raise ValueError(
                f"model type {self.config.model_type} lets packed documents see each other; "
                "set dataset.packing.method=one_per_document, or take a decoder such as llama, qwen2 or gpt2"
            )
        inputs["position_ids"] = position_ids_BT.long()
        return inputs

    @property
    def _backbone(self) -> PreTrainedModel:
        """The decoder itself, also inside adapters."""
        return next(each for each in self.decoder.modules() if isinstance(each, PreTrainedModel))

    @torch.no_grad()
    def limit_logits(self, max_tokens: int) -> None:
        """From now on, losses are computed from the logits of at most `max_tokens` tokens at once.

        Raises ValueError if the architecture does more between hidden states and logits than its output
        layer: a forward pass of 12 tokens both ways must give equal bits.
        """
        inputs = {"input_ids": torch.arange(12)[None] % self.config.vocab_size, "use_cache": False}
        was_training = self.training
        self.eval()
        try:
            hidden_BTH = self._backbone.base_model(**inputs).last_hidden_state
            logits_BTV = self._backbone.get_output_embeddings()(hidden_BTH)
            is_equal = torch.equal(logits_BTV, self.decoder(**inputs).logits)
        except (AttributeError, TypeError):  # no output layer, or no hidden states
            is_equal = False
        finally:
            self.train(was_training)
        if not is_equal:
            raise ValueError(
                f"finetune.max_logit_tokens: the logits of model type {self.config.model_type} are more than "
                "its output layer makes of the hidden states; set it to null and finetune.micro_batch lower"
            )
        self._max_logit_tokens = max_tokens

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


def limit_logits(module: nn.Module, max_tokens: int) -> None:
    """See `Decoder.limit_logits`. Raises ValueError if `module` predicts no next tokens."""
    if not isinstance(module, Decoder):
        raise ValueError(NO_NEXT_TOKENS)
    module.limit_logits(max_tokens)


def could_limit_logits(module: nn.Module) -> bool:
    """Whether `module` predicts next tokens, from the logits of all of them at once."""
    return isinstance(module, Decoder) and module._max_logit_tokens is None


def limits_logits(module: nn.Module) -> bool:
    """Whether `limit_logits` was called: the output layer is applied to targets alone."""
    return isinstance(module, Decoder) and module._max_logit_tokens is not None
