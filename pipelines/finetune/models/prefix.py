"""Prefix tuning (Li and Liang 2021, arXiv 2101.00190): in every layer, attention sees P trained keys and
values before those of the text. Format and meaning are those of PEFT, whose PrefixEncoder holds them.

PEFT wraps the model in a class of its own, which hides the transformers model that the rest of this package
works with. So a hook of the inner model adds the prefix: as a cache that is filled already, with the mask and
the positions moved by P.

What can't be had: activation checkpointing (transformers drops the cache while it recomputes), and packed
documents (the mask that keeps them apart is made for rows without a cache). Both are refused before training.
Architectures whose attention takes no cache are refused when the model is built.

Shapes: B rows, T tokens, P tokens of the prefix, L layers, H heads with keys, D numbers of each.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

OWN = "prefix_tokens"
"""Attribute of the inner model with its prefixes by name."""
TYPE = "PREFIX_TUNING"
WEIGHTS = "prompt_embeddings"
"""PEFT's name of the (P, L * 2 * H * D) numbers."""
SPREAD = 0.02
"""Standard deviation of new keys and values: those of PEFT, from a standard normal distribution, would
change the outputs of a trained base a lot. Zeros would stay equal to each other."""


class Prefixes(nn.ModuleDict):
    """PEFT's PrefixEncoder by name of the adapter; one of them, or none, is active."""

    active: str | None = None


def attach_prefix(backbone: PreTrainedModel, config: Any, *, name: str) -> None:
    """Give `backbone` a new prefix, which is active. `config`: PEFT's PrefixTuningConfig. Raises ValueError
    if the architecture takes no prefix."""
    from peft import PrefixEncoder

    encoder: Any = PrefixEncoder(config)
    encoder.shape = (config.num_layers, config.num_attention_heads)
    nn.init.normal_(encoder.embedding.weight, std=SPREAD)
    inner: Any = backbone.base_model
    if not hasattr(inner, OWN):
        setattr(inner, OWN, Prefixes())
        inner.register_forward_pre_hook(_add_active, with_kwargs=True)
    like = next(inner.parameters())
    prefixes: Prefixes = getattr(inner, OWN)
    prefixes[name], prefixes.active = encoder.to(device=like.device, dtype=like.dtype), name


def describe_prefix(backbone: PreTrainedModel, **fields: Any) -> Any:
    """PEFT's PrefixTuningConfig of a model, with the sizes that its keys have. Raises ValueError if
    transformers does not say them."""
    from peft import PrefixTuningConfig
    from peft.utils import _prepare_prompt_learning_config

    try:
        return _prepare_prompt_learning_config(PrefixTuningConfig(**fields), backbone.config)
    except ValueError as error:
        raise ValueError(_REFUSED.format(backbone.config.model_type)) from error


@torch.no_grad()
def require_effect(backbone: PreTrainedModel, *, name: str) -> None:
    """Raise ValueError unless the prefix changes the outputs of `backbone`, and each row's own alone: two
    forward passes of two rows, and one of a row without padding."""
    inner: Any = backbone.base_model
    prefixes: Prefixes = getattr(inner, OWN)
    ids_BT = (torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]) + 3) % backbone.config.vocab_size
    mask_BT = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    was_training = backbone.training
    backbone.eval()
    try:
        outputs_BTD = inner(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)[0]
        short_1TD = inner(input_ids=ids_BT[1:, :2], attention_mask=mask_BT[1:, :2], use_cache=False)[0]
        prefixes.active = None
        plain_BTD = inner(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)[0]
        works = not torch.equal(outputs_BTD, plain_BTD)
        works &= bool(torch.allclose(outputs_BTD[1:, :2], short_1TD, rtol=1e-3, atol=1e-4))
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError):
        works = False
    finally:
        prefixes.active = name
        backbone.train(was_training)
    if not works:
        raise ValueError(_REFUSED.format(backbone.config.model_type))


_REFUSED = (
    "model type {} takes no prefix, because its attention in transformers reads no keys and values from "
    "before the text; set finetune.model.adapter.kind=bottleneck or lora, or take a model such as bert, "
    "roberta, gpt2, llama or qwen2"
)


def read_prefix(backbone: PreTrainedModel, name: str) -> dict[str, Tensor]:
    """The weights of a prefix as PEFT keeps them."""
    encoder: Any = getattr(backbone.base_model, OWN)[name]
    return {WEIGHTS: encoder.embedding.weight}


def load_prefix(backbone: PreTrainedModel, config: Any, weights: Mapping[str, Tensor], *, name: str) -> None:
    """Attach the prefix that `read_prefix` read. Raises ValueError if weights are missing or unexpected."""
    if set(weights) != {WEIGHTS}:
        raise ValueError(f"weights {sorted(weights)[:3]} in place of {WEIGHTS}")
    attach_prefix(backbone, config, name=name)
    encoder: Any = getattr(backbone.base_model, OWN)[name]
    encoder.load_prompt_embeddings(weights[WEIGHTS])


def activate_prefix(module: nn.Module, name: str) -> None:
    """Let the prefix of this name be the active one; if there is none, the base has no prefix."""
    for each in module.modules():
        if isinstance(each, Prefixes):
            each.active = name if name in each else None


def deactivate_prefix(module: nn.Module) -> None:
    """Let `module` give the outputs without a prefix."""
    for each in module.modules():
        if isinstance(each, Prefixes):
            each.active = None


def has_prefix(module: nn.Module) -> bool:
    """Whether a prefix is active."""
    return any(isinstance(each, Prefixes) and each.active is not None for each in module.modules())


# No method or closure: a copy of the model, such as a reference, must use its own prefix.
def _add_active(inner: Any, arguments: tuple[Any, ...], inputs: dict[str, Any]) -> Any:
    prefixes: Prefixes = getattr(inner, OWN)
    if prefixes.active is None:
        return None
    ids_BT = inputs.get("input_ids")
    ids_BT = arguments[0] if ids_BT is None else ids_BT
    mask_BT, positions_BT = inputs.get("attention_mask"), inputs.get("position_ids")
    if mask_BT is None and positions_BT is None:
        mask_BT = torch.ones_like(ids_BT)
    if mask_BT is None or mask_BT.dim() != 2:
        raise ValueError(
            "a prefix needs a mask of real tokens, which packed documents do not have; set "
            "dataset.packing.method=one_per_document"
        )
    encoder: Any = prefixes[prefixes.active]
    weights_PN = encoder.embedding.weight
    num_tokens = len(weights_PN)
    cache = inputs.get("past_key_values")
    if cache is None or cache.get_seq_length() == 0:
        cache = _fill_cache(weights_PN, len(ids_BT), *encoder.shape)
    changed = {"past_key_values": cache}
    changed["attention_mask"] = torch.cat([mask_BT.new_ones(len(mask_BT), num_tokens), mask_BT], dim=1)
    if positions_BT is not None:
        changed["position_ids"] = positions_BT + num_tokens
    return arguments, {**inputs, **changed}


def _fill_cache(weights_PN: Tensor, num_rows: int, num_layers: int, num_heads: int) -> DynamicCache:
    """Keys and values, in each layer those of the prefix, for every row."""
    num_tokens = len(weights_PN)
    weights_PKHD = weights_PN.view(num_tokens, 2 * num_layers, num_heads, -1)
    weights_KBHPD = weights_PKHD.permute(1, 2, 0, 3)[:, None].expand(-1, num_rows, -1, -1, -1)
    return DynamicCache([(weights_KBHPD[2 * i], weights_KBHPD[2 * i + 1]) for i in range(num_layers)])
