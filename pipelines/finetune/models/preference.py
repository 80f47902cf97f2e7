"""A transformers decoder that also says how likely it finds responses, beside the model it started from.

Shapes: B sequences, T tokens, V vocabulary, N targets, M models (this one, and its reference if it has one).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel

from pipelines.dataset.rows import NO_LABEL
from pipelines.finetune.models.lora import hash_weights
from pipelines.finetune.models.prefix import deactivate_prefix


class PreferenceDecoder(nn.Module):
    """A causal language model with a frozen reference.

    The reference is no submodule: it is in no state_dict, so in no checkpoint, broadcast or export, and no
    optimizer sees it. It is always in evaluation mode. What is frozen is one tensor in both: beside an
    adapter, the base is not copied, and the copy of the adapter changes nothing, as at the start. A new
    prefix would change outputs, so the reference has none.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = decoder
        # In a tuple, because torch registers every module that is an attribute.
        self._reference: tuple[PreTrainedModel, ...] = ()

    @property
    def config(self) -> PreTrainedConfig:
        return self.decoder.config

    def keep_reference(self) -> None:
        """Keep the weights of now as the reference."""
        frozen = {id(each): each for each in self.decoder.parameters() if not each.requires_grad}
        reference = copy.deepcopy(self.decoder, memo=dict(frozen))
        deactivate_prefix(reference)
        self._reference = (reference.eval().requires_grad_(False),)

    def digest_reference(self) -> str | None:
        """sha256 of the names and weights of the reference; None = there is none. O(weights)."""
        if not self._reference:
            return None
        return hash_weights(self._reference[0])

    def forward(
        self, input_ids_BT: Tensor, attention_mask_BT: Tensor, target_ids_BT: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, V). With `target_ids_BT` (-100 where a token is no target) the log-probabilities of
        the targets of each row, summed: (B, M) float64, of this model and then of the reference.

        `attention_mask_BT` is true at real tokens; ids may have any integer type.
        """
        # int32 and bool travel to the device, int64 is what every architecture accepts as index and mask.
        ids_BT, mask_BT = input_ids_BT.long(), attention_mask_BT.long()
        if target_ids_BT is None:
            return self.decoder(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        with torch.no_grad():  # first: the activations that the backward pass needs are not there yet
            columns = [
                sum_log_probabilities(
                    reference(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits, target_ids_BT
                )
                for reference in self._reference
            ]
        logits_BTV = self.decoder(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        return torch.stack([sum_log_probabilities(logits_BTV, target_ids_BT), *columns], dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PreferenceDecoder":
        """What .to(device) and .double() do with every tensor, done with the reference too."""
        super()._apply(fn, recurse)
        for reference in self._reference:
            any_module: Any = reference
            any_module._apply(fn, recurse)
        return self


def sum_log_probabilities(logits_BTV: Tensor, target_ids_BT: Tensor) -> Tensor:
    """(B,) float64: log-probabilities of the targets of each row, each predicted from the tokens before it.

    One softmax in float32, over the targets alone: prompts and padding take no memory here. Summed in
    float64: a sum of 500 in float32 is off by 3e-5, and the loss is a difference of four of them.
    """
    targets_BT = target_ids_BT[:, 1:].long()
    is_target_BT = targets_BT != NO_LABEL
    logits_NV = logits_BTV[:, :-1][is_target_BT]
    if logits_NV.dtype.itemsize < 4:
        logits_NV = logits_NV.float()
    losses_N = cross_entropy(logits_NV, targets_BT[is_target_BT], reduction="none")
    sums_BT = torch.zeros(targets_BT.shape, dtype=torch.float64, device=logits_BTV.device)
    return sums_BT.masked_scatter(is_target_BT, -losses_N.double()).sum(1)
