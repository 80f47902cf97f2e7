"""Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751): behind the last linear layer of each attention
and of each feed-forward, before the residual is added, y becomes y + up(gelu(down(dropout(y)))).

`up` starts at zero, so a new adapter changes no output. PEFT has no such kind: the module is ours, in files
of PEFT's names with the type BOTTLENECK. A hook of the layer adds it, so that no layer is replaced: adapters
of other kinds can be attached to the same layers, before and after.

Shapes: D outputs of a layer, R width of the middle.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import PreTrainedModel

OWN = "houlsby_layers"
"""Attribute of a layer with its adapters by name."""
TYPE = "BOTTLENECK"
SPREAD = 0.02
"""Standard deviation of new weights of `down`."""
ENDS = (
    *("attention.output.dense", "output.dense"),  # bert, roberta, electra, vit
    *("self_attn.o_proj", "mlp.down_proj"),  # llama, mistral, qwen, gemma, olmo, phi3
    *("attn.c_proj", "mlp.c_proj"),  # gpt2
    *("self_attn.out_proj", "attention.out_proj", "attn.out_proj", "fc2", "mlp.fc_out"),  # opt, gpt_neo, gptj
    *("attention.dense", "self_attention.dense", "mlp.dense_4h_to_h"),  # gpt_neox, bloom, falcon, albert
    *("self_attn.dense", "ffn_output", "attention.out_lin", "ffn.lin2"),  # phi, albert, distilbert
    *("attn.Wo", "mlp.Wo"),  # modernbert
)
"""How transformers calls the last linear layer of an attention or of a feed-forward."""


class Bottleneck(nn.Module):
    """What is added to the output of one layer."""

    def __init__(self, num_outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.down, self.up = nn.Linear(num_outputs, width), nn.Linear(width, num_outputs)
        nn.init.normal_(self.down.weight, std=SPREAD)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, outputs_BTD: Tensor) -> Tensor:
        added_BTD: Tensor = self.up(gelu(self.down(self.dropout(outputs_BTD))))
        return added_BTD


class Bottlenecks(nn.ModuleDict):
    """The adapters of one layer by name; one of them, or none, is active."""

    active: str | None = None


def find_outputs(layers: Sequence[str]) -> list[str]:
    """The last linear layers of attentions and feed-forwards among names of layers."""
    return [name for name in layers if any(name == end or name.endswith(f".{end}") for end in ENDS)]


def attach_bottlenecks(
    backbone: PreTrainedModel, layers: Sequence[str], *, name: str, width: int, dropout: float
) -> None:
    """Give layers an adapter, which is active. Random weights are drawn layer after layer."""
    for each in layers:
        layer: Any = backbone.get_submodule(each)
        if not hasattr(layer, OWN):
            setattr(layer, OWN, Bottlenecks())
            layer.register_forward_hook(_add_active)
        num_outputs = _count_outputs(layer)
        like = next(layer.parameters())
        adapter = Bottleneck(num_outputs, width, dropout).to(device=like.device, dtype=like.dtype)
        adapters: Bottlenecks = getattr(layer, OWN)
        adapters[name], adapters.active = adapter, name


def read_bottlenecks(backbone: PreTrainedModel, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of an adapter, as its folder keeps them."""
    adapters = {layer: each[name] for layer, each in _list_layers(backbone).items() if name in each}
    first: Any = next(iter(adapters.values()))
    fields = {
        "peft_type": TYPE,
        "bottleneck_width": first.down.out_features,
        "bottleneck_dropout": first.dropout.p,
        "target_modules": sorted(adapters),
    }
    weights = {
        f"{layer}.{key}": tensor
        for layer, each in adapters.items()
        for key, tensor in each.state_dict().items()
    }
    return fields, weights


def load_bottlenecks(
    backbone: PreTrainedModel, fields: Mapping[str, Any], weights: Mapping[str, Tensor], *, name: str
) -> None:
    """The reverse of `read_bottlenecks`. Raises ValueError if weights are missing or unexpected."""
    if not fields["target_modules"]:
        raise ValueError("it names no layers")
    width, dropout = fields["bottleneck_width"], fields["bottleneck_dropout"]
    attach_bottlenecks(backbone, fields["target_modules"], name=name, width=width, dropout=dropout)
    wanted = read_bottlenecks(backbone, name)[1]
    if different := sorted(wanted.keys() ^ weights.keys()):
        raise ValueError(f"weights missing or unexpected: {', '.join(different[:3])}")
    with torch.no_grad():
        for key, tensor in wanted.items():  # they share the memory of the parameters
            tensor.copy_(weights[key])


def activate_bottleneck(module: nn.Module, name: str) -> None:
    """Let the adapters of this name be the active ones; layers without one are as in the base."""
    for each in module.modules():
        if isinstance(each, Bottlenecks):
            each.active = name if name in each else None


def _list_layers(backbone: PreTrainedModel) -> dict[str, Bottlenecks]:
    return {
        name.removesuffix(f".{OWN}"): each
        for name, each in backbone.named_modules()
        if isinstance(each, Bottlenecks)
    }


def _count_outputs(layer: Any) -> int:
    """Of a linear layer, also of transformers' Conv1D and of one that PEFT has wrapped."""
    return int(layer.nf if hasattr(layer, "nf") else layer.out_features)


# No method or closure: a copy of the model, such as a reference, must use its own adapters.
def _add_active(layer: Any, inputs: Any, outputs_BTD: Tensor) -> Tensor:
    adapters: Bottlenecks = getattr(layer, OWN)
    if adapters.active is None:
        return outputs_BTD
    added_BTD: Tensor = adapters[adapters.active](outputs_BTD)
    return outputs_BTD + added_BTD
