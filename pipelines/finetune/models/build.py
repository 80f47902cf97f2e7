"""Build the model of a training at step 0: from weights, from scratch, or the structure alone.

The task chooses the transformers Auto class of the backbone and puts its head on it. Parameters are float32.
No code and no pickle from outside is ever loaded: safetensors only.
"""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from pipelines.dataset.hub import Base, locate_base, resolve_base
from pipelines.finetune.models.adapter import ADAPTER_FOLDER, BASE_FILE, BaseWeights
from pipelines.finetune.models.architecture import SPEC_FILE, WEIGHTS_FILE, Architecture, ModelSpec
from pipelines.finetune.models.decoder import Decoder
from pipelines.finetune.models.freeze import freeze_named, freeze_unused
from pipelines.finetune.models.lora import attach_adapter, find_backbone, hash_weights
from pipelines.finetune.models.masked_encoder import MaskedEncoder
from pipelines.finetune.models.padding import position_offset
from pipelines.finetune.models.preference import PreferenceDecoder
from pipelines.finetune.tasks.table import build_task

CPU_ATTENTION = "eager"
"""5 to 10 % faster than "sdpa" on CPU at customer-service lengths; numerically the plain definition."""
GPU_ATTENTION = "sdpa"
"""Does not keep the B x heads x T x T weights of every layer for the backward pass."""
WITH_POOLER = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types whose pooler can be left out. Poolers of other types are frozen, because no loss reaches them.
"""
OURS = {r"^(encoder|decoder)\.": ""}
"""From the names of weights in a model folder of this package to those of its backbone."""
UNREAD = BaseWeights(sha256="0" * 64, name=None)
"""Of a base whose weights nobody reads."""
_NO_MODEL = "{} is an adapter, no model; name the base that it belongs to"
NEW_HEADS = ("AutoModelForMaskedLM",)
"""Auto classes whose head may be missing in a base: it is drawn from the seed."""


def build_model(
    architecture: Architecture,
    spec: ModelSpec,
    *,
    vocab_size: int,
    seed: int,
    load_weights: bool = True,
    base_name: str | None = None,
    shapes_only: bool = False,
) -> nn.Module:
    """The model at step 0, on the CPU in float32. Random parts are drawn from `seed`: equal on every rank.

    `load_weights=False` reads no weights of the base: same names, shapes and frozen parts, random values. It
    is for ranks that receive rank 0's state. What the ranks do not send is read all the same (`reads_base`):
    an adapter's base, and a reference. Parameters that the loss can't reach are frozen. `base_name`: what an
    adapter calls its base if `architecture` names a copy of it. `shapes_only`: no weights at all are read,
    and nothing is asked that only their values can say (memory/tensors.py).
    """
    task, adapter = build_task(spec), architecture.adapter
    prefix_tokens = adapter.prefix_tokens if adapter.kind == "prefix" else 0
    torch.manual_seed(seed)
    if architecture.base is None:
        config = _make_config(architecture.config, vocab_size)
        require_positions(config, spec.max_tokens, prefix_tokens)
        backbone = _make_backbone(config, task.auto_class)
    else:
        base = _find_base(architecture.base)
        config = AutoConfig.from_pretrained(
            base.place, revision=base.commit or "main", trust_remote_code=False, **architecture.config
        )
        _require_vocabulary(config, vocab_size)
        require_positions(config, spec.max_tokens, prefix_tokens)
        if not shapes_only and (load_weights or reads_base(architecture, spec)):
            backbone = _load_backbone(base, config.model_type, task.auto_class, architecture)
        else:
            backbone = _make_backbone(config, task.auto_class)
        # The head is drawn from the seed, whatever was drawn for the backbone.
        torch.manual_seed(seed)
    choose_attention(backbone)
    module = task.build_module(backbone)

    freeze_named(module, architecture.frozen)
    freeze_unused(module)
    if adapter.kind is not None:
        described = UNREAD if shapes_only else _describe_base(architecture, module, base_name)
        attach_adapter(module, adapter, described, task.auto_class, has_values=not shapes_only)
    if isinstance(module, Decoder | MaskedEncoder):
        module.separates_documents = shapes_only or module.probe_separation()
    if isinstance(module, PreferenceDecoder) and spec.needs_reference:
        module.keep_reference()
    return module


def choose_attention(backbone: PreTrainedModel) -> None:
    """Take GPU_ATTENTION on a machine with a GPU, if the architecture has it; every backbone is built with
    CPU_ATTENTION."""
    if torch.cuda.is_available() and backbone._supports_sdpa:
        backbone.set_attn_implementation(GPU_ATTENTION)


def reads_base(architecture: Architecture, spec: ModelSpec) -> bool:
    """Whether every rank needs the weights of the base, also to continue: no checkpoint holds them."""
    return architecture.adapter.kind is not None or spec.needs_reference


def build_on_base(base: BaseWeights, spec: ModelSpec) -> nn.Module:
    """The module of a task on the float32 weights of a base; a head is random, and a model folder loads its
    own next. Raises as `resolve_base` does."""
    task = build_task(spec)
    architecture, found = Architecture(base=base.place, config=base.config), _find_base(base.place)
    model_type = AutoConfig.from_pretrained(
        found.place, revision=found.commit or "main", trust_remote_code=False
    ).model_type
    return task.build_module(_load_backbone(found, model_type, task.auto_class, architecture))


def _describe_base(architecture: Architecture, module: nn.Module, name: str | None) -> BaseWeights:
    """The weights of the backbone, before it has an adapter. `name`: see `build_model`."""
    _, backbone = find_backbone(module)
    commit = None
    if name is None and architecture.base is not None:
        name, commit = locate_base(architecture.base)
    config = {} if name is None else architecture.config
    return BaseWeights(sha256=hash_weights(backbone), name=name, commit=commit, config=config)


def build_from_config(config: PreTrainedConfig, spec: ModelSpec) -> nn.Module:
    """The module of a task with random float32 weights; a model folder loads its own next."""
    task = build_task(spec)
    return task.build_module(_make_backbone(config, task.auto_class))


def _make_backbone(config: PreTrainedConfig, auto_class: str) -> PreTrainedModel:
    """The backbone with random weights."""
    return getattr(transformers, auto_class).from_config(
        config,
        attn_implementation=CPU_ATTENTION,
        dtype=torch.float32,
        **_leave_out_pooler(config.model_type, auto_class),
    )


def _load_backbone(
    base: Base, model_type: str, auto_class: str, architecture: Architecture
) -> PreTrainedModel:
    """The backbone with the weights of the base, which may be a model folder that this package wrote. Raises
    ValueError if weights of its architecture are missing; a head of NEW_HEADS may be new.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Only a folder is looked into: on the hub, a file that is not there would cost a request.
    is_ours = base.commit is None and base.file(SPEC_FILE) is not None
    # A pair, because of output_loading_info; the library's types do not say so.
    loaded: Any = getattr(transformers, auto_class).from_pretrained(
        base.place,
        revision=base.commit or "main",
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        attn_implementation=CPU_ATTENTION,
        key_mapping=OURS if is_ours else None,
        **_leave_out_pooler(model_type, auto_class),
        **architecture.config,
    )
    backbone: PreTrainedModel
    backbone, report = loaded
    if hasattr(backbone, "peft_config"):  # a hub id with both: its base would not be the pinned commit
        raise ValueError(_NO_MODEL.format(architecture.base))
    missing = sorted(report["missing_keys"])
    if auto_class in NEW_HEADS and architecture.adapter.kind is None:  # with one, no head is trained
        missing = [name for name in missing if name.startswith(f"{backbone.base_model_prefix}.")]
    if missing:
        raise ValueError(
            f"{architecture.base} lacks weights of its own architecture: {', '.join(missing[:5])}; "
            "take weights saved from this model type, or train from scratch"
        )
    return backbone


def _find_base(name: str) -> Base:
    """As `resolve_base`. Raises ValueError too for a folder that holds no weights but those of an adapter."""
    base = resolve_base(name)
    if base.commit is not None:  # see _load_backbone
        return base
    if base.file("adapter_config.json") is not None:
        raise ValueError(_NO_MODEL.format(name))
    if base.file(f"{ADAPTER_FOLDER}/{BASE_FILE}") is not None and base.file(WEIGHTS_FILE) is None:
        raise ValueError(
            f"{name} holds an adapter without its base, which can't be trained further; train it again with "
            "finetune.model.adapter.merge=true"
        )
    return base


def _leave_out_pooler(model_type: str, auto_class: str) -> dict[str, bool]:
    return {"add_pooling_layer": False} if auto_class == "AutoModel" and model_type in WITH_POOLER else {}


def _make_config(keys: Mapping[str, Any], vocab_size: int) -> PreTrainedConfig:
    config = AutoConfig.for_model(keys["model_type"], vocab_size=vocab_size)
    unknown = [key for key in keys if not hasattr(config, key)]
    if unknown:
        raise ValueError(
            f"model type {keys['model_type']} has no setting {', '.join(unknown)}; "
            f"its settings: {', '.join(sorted(k for k in config.to_dict() if not k.startswith('_')))}"
        )
    return AutoConfig.for_model(**{**keys, "vocab_size": vocab_size})


def _require_vocabulary(config: PreTrainedConfig, vocab_size: int) -> None:
    if config.vocab_size < vocab_size:
        raise ValueError(
            f"the tokenizer has {vocab_size} tokens, the model knows {config.vocab_size}; "
            "use the model's own tokenizer"
        )


def require_positions(config: PreTrainedConfig, max_tokens: int, prefix_tokens: int = 0) -> None:
    """Raise ValueError if a model has fewer positions than the tokens of a sequence and of a prefix."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        positions -= position_offset(config)
    if positions is not None and positions < max_tokens + prefix_tokens:
        prefix = f" and finetune.model.adapter.prefix_tokens {prefix_tokens}" if prefix_tokens else ""
        raise ValueError(
            f"dataset.packing.sequence_length is {max_tokens} tokens{prefix}, but the model "
            f"({config.model_type}) has {positions} positions; lower {'one' if prefix else 'it'}, or take a "
            "model for longer texts"
        )
