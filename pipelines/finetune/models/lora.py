"""Adapters in a model: attached, and merged into the weights. `adapter_files` keeps and loads them.

The backbone keeps its class. For LoRA, rsLoRA, DoRA and AdaLoRA, PEFT replaces its linear layers by layers
that hold the old one (`base_layer`) and the matrices of the adapter (`lora_*`); `bottleneck` and `prefix` say
how the other kinds take part. Everything outside of the backbone, such as the head of a classifier, is
trained in full.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipelines.finetune.models import bottleneck, prefix
from pipelines.finetune.models.adapter import Adapter, BaseWeights, RankSchedule
from pipelines.finetune.models.freeze import freeze_unused

OWN = ("lora_", bottleneck.OWN, prefix.OWN)
"""Start the names of the modules of adapters; those of transformers do not start so."""
DEFAULT = "default"
"""PEFT's name of an adapter that is alone."""
PURPOSES = {"AutoModelForCausalLM": "CAUSAL_LM", "AutoModel": "FEATURE_EXTRACTION"}
"""PEFT's task_type by Auto class: it chooses the class that PEFT wraps a loaded base in."""


@dataclass(frozen=True, slots=True)
class Attached:
    """What a backbone with an adapter knows of it."""

    base: BaseWeights
    merge: bool
    """Whether the model folder holds merged weights."""
    schedule: RankSchedule | None = None
    """Of adalora in training; None = other kinds, and in use."""


def find_backbone(module: nn.Module) -> tuple[str, PreTrainedModel]:
    """The outermost transformers model inside `module` and the prefix of its names."""
    return next(
        (f"{name}." if name else "", each)
        for name, each in module.named_modules()
        if isinstance(each, PreTrainedModel)
    )


def find_attached(module: nn.Module) -> Attached | None:
    """What is known of the adapter of `module`; None = it has none."""
    found: Any = next((each.attached for each in module.modules() if hasattr(each, "attached")), None)
    return found


def attach_adapter(
    module: nn.Module, adapter: Adapter, base: BaseWeights, auto_class: str, *, has_values: bool = True
) -> None:
    """Freeze the backbone of `module` and give it an adapter. It changes no output yet, because the last of
    its matrices is zero; but a prefix does. Random weights are drawn from torch's stream, layer after layer.
    Layers that no loss reaches and those that are frozen already get none.

    `has_values=False`: the weights are shapes alone, of which nothing is asked that only values can say.
    Raises ValueError if a name of target_modules fits no layer, or if the architecture takes no prefix.
    """
    backbone = _backbone_of(module)
    names = {
        "task_type": PURPOSES.get(auto_class),
        "base_model_name_or_path": base.name,
        "revision": base.commit,
    }
    if adapter.kind == "prefix":
        config = prefix.describe_prefix(backbone, num_virtual_tokens=adapter.prefix_tokens, **names)
        backbone.requires_grad_(False)
        prefix.attach_prefix(backbone, config, name=DEFAULT)
        if has_values:
            prefix.require_effect(backbone, name=DEFAULT)
        backbone.peft_config = {DEFAULT: config}
    elif adapter.kind == "bottleneck":
        targets = _choose_targets(backbone, adapter)
        backbone.requires_grad_(False)
        width, dropout = adapter.rank, adapter.dropout
        bottleneck.attach_bottlenecks(backbone, targets, name=DEFAULT, width=width, dropout=dropout)
    else:
        _inject(backbone, adapter, names)
    schedule = adapter.adalora if adapter.kind == "adalora" else None
    backbone.attached = Attached(base, bool(adapter.merge), schedule)
    unreached = [name for name in freeze_unused(module) if is_own(name)]
    if unreached:
        parts = unreached[0].split(".")
        layer = ".".join(parts[: next(i for i, part in enumerate(parts) if part.startswith(OWN))])
        raise ValueError(
            f"the adapter of {layer} has no effect, because the model reads the weight of that layer and "
            "does not call it; name other layers in finetune.model.adapter.target_modules"
        )


def _inject(backbone: Any, adapter: Adapter, names: dict[str, Any]) -> None:
    from peft import (  # seconds; most models have no adapter
        AdaLoraConfig,
        LoraConfig,
        inject_adapter_in_model,
    )

    targets = _choose_targets(backbone, adapter)
    common: dict[str, Any] = {
        **names,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": targets,
        "fan_in_fan_out": all(isinstance(backbone.get_submodule(name), Conv1D) for name in targets),
    }
    if adapter.kind == "adalora":
        schedule = adapter.adalora
        config: Any = AdaLoraConfig(
            init_r=adapter.initial_rank,
            target_r=adapter.rank,
            deltaT=schedule.every_steps,
            orth_reg_weight=schedule.orthogonality,
            total_step=1,  # until the number of steps is known; see plan_ranks
            **common,
        )
    else:
        common |= {"use_rslora": adapter.kind == "rslora", "use_dora": adapter.kind == "dora"}
        config = LoraConfig(r=adapter.rank, **common)
    inject_adapter_in_model(config, backbone, adapter_name=DEFAULT)


def is_own(name: str) -> bool:
    """Whether a weight of this name belongs to an adapter."""
    return any(part.startswith(OWN) for part in name.split("."))


def _backbone_of(module: nn.Module) -> Any:
    """The backbone, to which PEFT and this file add attributes."""
    return find_backbone(module)[1]


def _choose_targets(backbone: PreTrainedModel, adapter: Adapter) -> list[str]:
    """Names of the layers that get an adapter, sorted."""
    head = backbone.get_output_embeddings()
    layers = [
        name
        for name, each in backbone.named_modules()
        if isinstance(each, nn.Linear | Conv1D) and each is not head and each.weight.requires_grad
    ]
    if not layers:
        raise ValueError(
            f"model type {backbone.config.model_type} has no linear layer that could get an adapter; look at "
            "finetune.model.frozen, or set finetune.model.adapter.kind=null"
        )
    if adapter.target_modules == "all_linear" and adapter.kind == "bottleneck":
        if outputs := bottleneck.find_outputs(layers):
            return sorted(outputs)
        raise ValueError(
            f"which layers of model type {backbone.config.model_type} end an attention or a feed-forward is "
            "not known; name them in finetune.model.adapter.target_modules, among those that end in "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in layers}))}"
        )
    if adapter.target_modules == "all_linear":
        return sorted(layers)
    chosen = set[str]()
    for wanted in adapter.target_modules:
        fitting = {name for name in layers if name == wanted or name.endswith(f".{wanted}")}
        if not fitting:
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise ValueError(
                f"finetune.model.adapter.target_modules: no linear layer is called {wanted!r}; the ones that "
                f"can get an adapter end in {', '.join(ends)}"
            )
        chosen |= fitting
    return sorted(chosen)


def hash_weights(backbone: nn.Module) -> str:
    """sha256 of names, types, shapes and values of all weights, 64 hex digits. One pass, on as many threads
    as torch uses; tied weights are read once per name.
    """
    tensors = sorted(backbone.state_dict().items())
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        digests = pool.map(_hash_tensor, (tensor for _, tensor in tensors))
        total = hashlib.sha256()
        for (name, tensor), digest in zip(tensors, digests, strict=True):
            total.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0{digest}\n".encode())
    return total.hexdigest()


def _hash_tensor(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).hexdigest()


def list_frozen(module: nn.Module) -> set[str]:
    """Names of the weights of the base, which an adapter leaves as they are; empty without an adapter."""
    if find_attached(module) is None:
        return set()
    start, _ = find_backbone(module)
    return {name for name in module.state_dict() if name.startswith(start) and not is_own(name)}


def read_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights that a training changes, by name: all of them, or with an adapter those that are not of the
    base. They are what ranks send each other and what a checkpoint holds.
    """
    frozen = list_frozen(module)
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trained, all) numbers of parameters; tied ones count once."""
    parameters = list(module.parameters())
    return sum(each.numel() for each in parameters if each.requires_grad), sum(
        each.numel() for each in parameters
    )


def merge_adapter(module: nn.Module) -> None:
    """Add the adapter to the weights of the base and take its layers out: afterwards `module` is as if it had
    been trained in full. Logits change by rounding alone.

    Raises ValueError if a weight is not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    backbone = _backbone_of(module)
    for name, layer in [*backbone.named_modules()]:
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, layer.get_base_layer())
    del backbone.peft_config, backbone.attached
