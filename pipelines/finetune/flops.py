"""FLOPs that a step of training needs, counted from the modules of the model: the base of model FLOPs
utilisation (MFU; Chowdhery et al. 2022, PaLM, appendix B).

The rule. A multiplication and an addition are 2 FLOPs. Every weight of a matrix costs for each token that it
is applied to 2 in the forward pass, 2 for the gradient of the weight if it is trained, and 2 for the gradient
of the layer's input if something before it is trained: 6 in a model that is trained whole, 4 where the weight
is frozen beside an adapter. Attention costs for each pair of tokens of a row 4 x width in each layer, and
twice as much again in the backward pass: 12 x layers x width x tokens per token. All pairs count, though a
causal model uses half of them, as in PaLM, torchtitan and OLMo-core; a sliding window limits them. A packed
row is one row, and layers whose weights are frozen have their attention counted whole. Of experts, those
count that a token is sent to. A reference or a teacher has its forward pass.

Not counted: embeddings, normalisation, softmax, the optimizer, padding, and what is computed twice
(activation checkpointing, micro-batches whose rows are compared). So MFU says what training needed, whatever
the GPU did beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from transformers import PreTrainedConfig

from pipelines.finetune.models.decoder import limits_logits
from pipelines.finetune.models.lora import find_backbone

FORWARD = BACKWARD_TO_INPUT = BACKWARD_TO_WEIGHT = 2
"""FLOPs of a weight for each token."""
EXPERTS = "experts"
"""The part of a place that all experts of a layer are below."""


class Matrix(NamedTuple):
    """A weight that vectors are multiplied with."""

    place: str
    """Name of its layer."""
    layer: nn.Module
    num_weights: float
    """Those that a token meets."""
    cost: int
    """FLOPs of a weight for each token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """What the parts of a row cost; forward and backward."""

    per_token: float
    per_target: float
    """Of an output layer that is applied to targets alone."""
    per_row: float
    """Of a head that is applied to a row once."""
    per_pair: float
    """Of attention over all tokens of a row, for each of tokens x tokens."""
    per_windowed_pair: float
    """Of attention over the last `window` tokens, for each of tokens x min(tokens, window)."""
    window: int

    def count(self, lengths: np.ndarray, num_targets: np.ndarray) -> float:
        """Of rows with so many tokens and targets, (num_rows,) each."""
        tokens = lengths.astype(np.float64)
        return float(
            self.per_token * tokens.sum()
            + self.per_target * num_targets.sum()
            + self.per_row * len(tokens)
            + self.per_pair * (tokens * tokens).sum()
            + self.per_windowed_pair * (tokens * np.minimum(tokens, self.window)).sum()
        )


def count_flops(module: nn.Module) -> Flops:
    """What a row costs in the training of `module`, with its reference or teacher."""
    prefix, backbone = find_backbone(module)
    head = backbone.get_output_embeddings()
    per_token = per_row = per_target = 0.0
    for matrix in _list_matrices(module, backbone.config):
        cost = matrix.cost * matrix.num_weights
        if not matrix.place.startswith(prefix):
            per_row += cost
        elif matrix.layer is head and limits_logits(module):
            per_target += cost
        else:
            per_token += cost
    passes = 3 if any(each.requires_grad for each in module.parameters()) else 1  # backward costs two
    pairs, windowed, window = _count_attention(backbone.config)
    per_pair, per_windowed_pair = passes * pairs, passes * windowed

    for other in _find_others(module):  # with a forward pass alone
        _, inner = find_backbone(other)
        matrices = _list_matrices(inner, inner.config)
        per_token += FORWARD * sum(matrix.num_weights for matrix in matrices)
        pairs, windowed, _ = _count_attention(inner.config)
        per_pair, per_windowed_pair = per_pair + pairs, per_windowed_pair + windowed
    return Flops(
        per_token=per_token,
        per_target=per_target,
        per_row=per_row,
        per_pair=per_pair,
        per_windowed_pair=per_windowed_pair,
        window=window,
    )


def _find_others(module: Any) -> tuple[nn.Module, ...]:
    """The frozen models that `module` asks in training: they are none of its submodules."""
    return (*getattr(module, "_reference", ()), *module.__dict__.get("_teacher", ()))


def _list_matrices(module: nn.Module, config: Any) -> Iterator[Matrix]:
    """In the order in which modules are registered, which is that of the forward pass. A weight that is tied
    to an embedding is a matrix in the output layer."""
    is_trained_before = False
    for place, layer in module.named_modules():
        for name, weight in layer.named_parameters(recurse=False):
            if weight.ndim >= 2 and "bias" not in name and not isinstance(layer, nn.Embedding):
                cost = FORWARD + BACKWARD_TO_WEIGHT * weight.requires_grad
                cost += BACKWARD_TO_INPUT * is_trained_before
                yield Matrix(place, layer, weight.numel() * _find_share(place, config), cost)
        is_trained_before |= any(each.requires_grad for each in layer.parameters(recurse=False))


def _find_share(place: str, config: Any) -> float:
    """Of the weights at `place`, those that a token meets: an expert gets some tokens only."""
    if EXPERTS not in place.split("."):
        return 1.0
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    num_experts = next((getattr(config, name) for name in names if getattr(config, name, None)), None)
    num_chosen = getattr(config, "num_experts_per_tok", None)
    return 1.0 if num_experts is None or num_chosen is None else num_chosen / num_experts


def _count_attention(config: PreTrainedConfig) -> tuple[float, float, int]:
    """FLOPs of a forward pass for each pair of tokens, for each pair within a sliding window, and the tokens
    of the window (0 = there is none)."""
    known: Any = config
    num_heads = getattr(known, "num_attention_heads", None)
    if not num_heads:
        return 0.0, 0.0, 0
    width = num_heads * (getattr(known, "head_dim", None) or known.hidden_size // num_heads)
    window = int(getattr(known, "sliding_window", None) or 0)
    usual = "sliding" if window and getattr(known, "use_sliding_window", True) else "full"
    kinds = [str(kind) for kind in getattr(known, "layer_types", None) or [usual] * known.num_hidden_layers]
    num_windowed, num_full = (sum(word in kind for kind in kinds) for word in ("sliding", "full"))
    # Two products, of queries with keys and of probabilities with values; 2 FLOPs for each element.
    return 4.0 * width * num_full, 4.0 * width * num_windowed, window
