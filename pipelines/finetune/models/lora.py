"""LoRA, rsLoRA and DoRA in a model: attached by PEFT, kept in PEFT's format, merged into the weights.

The backbone keeps its class; PEFT replaces its linear layers by layers that hold the old one (`base_layer`)
and the matrices of the adapter (`lora_*`). Everything outside of the backbone, such as the head of a
classifier, is trained in full. Nothing is ever unpickled: safetensors and JSON only.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipelines.finetune.models.adapter import Adapter, BaseWeights, read_base, write_base
from pipelines.finetune.models.freeze import freeze_unused

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""PEFT's names."""
PREFIX = "base_model.model."
"""Before the names of weights in PEFT's file."""
OWN = "lora_"
"""Starts the names of the modules that PEFT adds; those of transformers do not start so."""
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


def attach_adapter(module: nn.Module, adapter: Adapter, base: BaseWeights, auto_class: str) -> None:
    """Freeze the backbone of `module` and give its linear layers an adapter, which changes no output yet.

    A is drawn from torch's random stream, layer after layer; B is zero. Layers that no loss reaches and those
    that are frozen already get none.
    Raises ValueError if a name of target_modules fits no layer.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds; most models have no adapter

    backbone = _backbone_of(module)
    targets = _choose_targets(backbone, adapter)
    config = LoraConfig(
        task_type=PURPOSES.get(auto_class),
        base_model_name_or_path=base.name,
        revision=base.commit,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.kind == "rslora",
        use_dora=adapter.kind == "dora",
        target_modules=targets,
        fan_in_fan_out=all(isinstance(backbone.get_submodule(name), Conv1D) for name in targets),
    )
    inject_adapter_in_model(config, backbone, adapter_name=DEFAULT)
    backbone.attached = Attached(base, adapter.merge)
    unreached = [name for name in freeze_unused(module) if OWN in name]
    if unreached:
        raise ValueError(
            f"the adapter of {unreached[0].partition(f'.{OWN}')[0]} has no effect, because the model reads "
            "the weight of that layer and does not call it; name other layers in "
            "finetune.model.adapter.target_modules"
        )


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
    prefix, _ = find_backbone(module)
    return {
        name
        for name in module.state_dict()
        if name.startswith(prefix) and not any(part.startswith(OWN) for part in name.split("."))
    }


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


def save_adapter(module: nn.Module, folder: Path) -> None:
    """Write the adapter as PEFT reads it (PeftModel.from_pretrained), and which base it belongs to.

    Equal adapters give equal files.
    """
    from peft import get_peft_model_state_dict

    attached, backbone = find_attached(module), _backbone_of(module)
    assert attached is not None, "only a model with an adapter is saved so"
    folder.mkdir(parents=True, exist_ok=True)
    fields = backbone.peft_config[DEFAULT].to_dict()
    fields |= {"target_modules": sorted(fields["target_modules"]), "inference_mode": True}
    text = json.dumps(fields, indent=2, sort_keys=True, default=sorted) + "\n"  # sets have no order
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    weights = get_peft_model_state_dict(backbone, adapter_name=DEFAULT, save_embedding_layers=False)
    tensors = {f"{PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_base(attached.base, folder)


def load_adapter(module: nn.Module, folder: Path, *, name: str = DEFAULT) -> None:
    """Attach the adapter of a folder to `module`, whose backbone has the weights of the base, and may have
    other adapters; the new one is active.

    Raises ValueError if it is another base, another kind of adapter, or if weights are missing.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    base, backbone, attached = read_base(folder), _backbone_of(module), find_attached(module)
    found = hash_weights(backbone) if attached is None else attached.base.sha256
    base.require(found, f"the adapter in {folder}")
    fields = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if fields["peft_type"] != "LORA":
        raise ValueError(f"the adapter in {folder} is of type {fields['peft_type']}; only LORA is read")
    if attached is not None:
        del backbone.peft_config  # PEFT would warn of it
    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), backbone, adapter_name=name)
    # Read here: PEFT itself would unpickle a file of its older format.
    tensors = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    named = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    report: Any = set_peft_model_state_dict(backbone, named, adapter_name=name)  # as load_state_dict's
    lacking = {key for key in report.missing_keys if OWN in key and name in key.split(".")}
    if lacking or report.unexpected_keys:
        raise ValueError(
            f"the adapter in {folder} does not fit its own configuration: missing {sorted(lacking)[:3]}, "
            f"unexpected {report.unexpected_keys[:3]}; restore the files"
        )
    backbone.attached = Attached(base, merge=False)


def activate_adapter(module: nn.Module, name: str) -> None:
    """Let the adapter of this name be the one that changes the outputs of `module`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for each in module.modules():
        if isinstance(each, BaseTunerLayer):
            each.set_adapter(name, inference_mode=True)


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
