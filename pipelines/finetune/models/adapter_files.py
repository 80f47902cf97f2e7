"""The folder of an adapter: settings and weights in PEFT's format, and which base they belong to. Nothing is
ever unpickled: safetensors and JSON only.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from pipelines.finetune.models import bottleneck, prefix
from pipelines.finetune.models.adapter import BaseWeights, read_base, write_base
from pipelines.finetune.models.lora import DEFAULT, Attached, find_attached, find_backbone, hash_weights

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""PEFT's names."""
PREFIX = "base_model.model."
"""Before the names of weights in PEFT's file."""


def save_adapter(module: nn.Module, folder: Path) -> None:
    """Write the adapter as PEFT reads it (PeftModel.from_pretrained), and which base it belongs to.

    Equal adapters give equal files. PEFT does not know bottlenecks: theirs has its own type.
    """
    attached, backbone = find_attached(module), find_backbone(module)[1]
    assert attached is not None, "only a model with an adapter is saved so"
    folder.mkdir(parents=True, exist_ok=True)
    fields, weights = _read_adapter(backbone, attached.base)
    text = json.dumps(fields, indent=2, sort_keys=True, default=sorted) + "\n"  # sets have no order
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_base(attached.base, folder)


def _read_adapter(backbone: Any, base: BaseWeights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of the adapter, as its files hold them."""
    if not hasattr(backbone, "peft_config"):
        fields, weights = bottleneck.read_bottlenecks(backbone, DEFAULT)
        return {**fields, "base_model_name_or_path": base.name, "revision": base.commit}, weights
    fields = {**backbone.peft_config[DEFAULT].to_dict(), "inference_mode": True}
    if fields["peft_type"] == prefix.TYPE:
        return fields, prefix.read_prefix(backbone, DEFAULT)
    from peft import get_peft_model_state_dict

    fields["target_modules"] = sorted(fields["target_modules"])
    weights = get_peft_model_state_dict(backbone, adapter_name=DEFAULT, save_embedding_layers=False)
    return fields, {f"{PREFIX}{name}": tensor for name, tensor in weights.items()}


def load_adapter(module: nn.Module, folder: Path, *, name: str = DEFAULT) -> None:
    """Attach the adapter of a folder to `module`, whose backbone has the weights of the base, and may have
    other adapters; the new one is active.

    Raises ValueError if it is another base, another kind of adapter, or if weights are missing.
    """
    base, attached = read_base(folder), find_attached(module)
    backbone: Any = find_backbone(module)[1]
    found = hash_weights(backbone) if attached is None else attached.base.sha256
    base.require(found, f"the adapter in {folder}")
    fields = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    # Read here: PEFT itself would unpickle a file of its older format.
    tensors = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    try:
        if fields["peft_type"] == bottleneck.TYPE:
            bottleneck.load_bottlenecks(backbone, fields, tensors, name=name)
        elif fields["peft_type"] == prefix.TYPE:
            from peft import PrefixTuningConfig

            config = PrefixTuningConfig.from_pretrained(str(folder))
            prefix.load_prefix(backbone, config, tensors, name=name)
        elif fields["peft_type"] in ("LORA", "ADALORA"):
            _load_injected(backbone, folder, tensors, name=name)
        else:
            raise ValueError(f"type {fields['peft_type']}, which is not read")
    except (KeyError, RuntimeError, ValueError) as error:  # of another shape, too
        raise ValueError(
            f"the adapter in {folder} does not fit its own configuration: {error}; restore the files"
        ) from error
    backbone.attached = Attached(base, merge=False)
    activate_adapter(module, name)


def _load_injected(backbone: Any, folder: Path, tensors: dict[str, Tensor], *, name: str) -> None:
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict

    if hasattr(backbone, "peft_config"):
        del backbone.peft_config  # of another adapter: PEFT would warn of it
    inject_adapter_in_model(PeftConfig.from_pretrained(str(folder)), backbone, adapter_name=name)
    named = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    report: Any = set_peft_model_state_dict(backbone, named, adapter_name=name)  # as load_state_dict's
    lacking = {key for key in report.missing_keys if "lora_" in key and name in key.split(".")}
    if lacking or report.unexpected_keys:
        raise ValueError(f"missing {sorted(lacking)[:3]}, unexpected {report.unexpected_keys[:3]}")


def activate_adapter(module: nn.Module, name: str) -> None:
    """Let the adapter of this name be the one that changes the outputs of `module`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for each in module.modules():
        if isinstance(each, BaseTunerLayer):
            each.set_adapter(name, inference_mode=True)
    bottleneck.activate_bottleneck(module, name)
    prefix.activate_prefix(module, name)
