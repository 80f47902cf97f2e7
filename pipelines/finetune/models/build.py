"""Models: a transformers encoder with a classification head, or a transformers decoder; from weights or from scratch.

A model folder holds `model.safetensors`, `config.json`, `tokenizer.json` and `model_spec.json`, nothing that is ever unpickled
and no code. Shapes: B sequences, T tokens, H hidden, C classes, V vocabulary.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from pipelines.dataset.hub import Base, resolve_base
from pipelines.dataset.tokenizer import from_json

TaskName = Literal["classification", "language_modelling"]
ATTENTION = "eager"
"""5 to 10 % faster than "sdpa" on CPU at customer-service lengths; numerically the plain definition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """What a model folder must say beside weights and configuration."""

    task: TaskName
    labels: tuple[str, ...]
    """Class names by class number; empty for language modelling."""
    max_tokens: int
    base: str
    """What the weights were started from: a path, package or hub id; "scratch" = random."""
    tokenizer: str
    """Fingerprint of the tokenizer."""

    @property
    def metric(self) -> str:
        """The number that says how good the model is."""
        return "accuracy" if self.task == "classification" else "bits_per_byte"


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Where a model starts: weights by name, or `config` of a transformers model type from scratch."""

    base: str | None = None
    """Folder, package://NAME/FOLDER or hub id; null = from scratch."""
    config: dict[str, Any] = field(default_factory=dict)
    """From scratch: model_type and its keys, as in a transformers config.json. With a base: keys to change, such as dropout."""
    frozen: tuple[str, ...] = ()
    """Parts of parameter names that stay as they are, such as word_embeddings."""

    def start(self) -> str:
        """What the weights start from, in a word.

        Raises ValueError if neither is given.
        """
        if self.base is None and "model_type" not in self.config:
            raise ValueError(
                "finetune.model needs base (a folder, package://NAME/FOLDER or hub id) "
                "or config.model_type (from scratch)"
            )
        return self.base or "scratch"


class EncoderClassifier(nn.Module):
    """Mean of the encoder's last hidden states over real tokens, then one linear layer."""

    def __init__(self, encoder: PreTrainedModel, num_labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(getattr(encoder.config, "hidden_dropout_prob", 0.0))
        self.head = nn.Linear(encoder.config.hidden_size, num_labels)

    @property
    def config(self) -> PreTrainedConfig:
        return self.encoder.config

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        hidden_BTH = self.encoder(input_ids=input_ids_BT, attention_mask=attention_mask_BT).last_hidden_state
        weight_BT1 = attention_mask_BT.unsqueeze(-1).to(hidden_BTH.dtype)
        pooled_BH = (hidden_BTH * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1.0)
        return self.head(self.dropout(pooled_BH))


class Decoder(nn.Module):
    """A causal language model reduced to its logits (B, T, V)."""

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = decoder

    @property
    def config(self) -> PreTrainedConfig:
        return self.decoder.config

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        return self.decoder(input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False).logits


class LoadedModel(NamedTuple):
    module: nn.Module
    tokenizer: Tokenizer
    spec: ModelSpec


def build_model(architecture: Architecture, spec: ModelSpec, *, vocab_size: int, seed: int) -> nn.Module:
    """The model at step 0, the same on every rank: random parts are drawn from `seed`. float32."""
    torch.manual_seed(seed)
    if architecture.base is None:
        config = _config(architecture.config, vocab_size)
        _require_positions(config, spec.max_tokens)
        module = _module(spec, config)
    else:
        backbone = _pretrained(architecture, spec)
        if backbone.config.vocab_size < vocab_size:
            raise ValueError(
                f"the tokenizer has {vocab_size} tokens, the model knows {backbone.config.vocab_size}; "
                "use the model's own tokenizer"
            )
        _require_positions(backbone.config, spec.max_tokens)
        torch.manual_seed(seed)
        module = (
            EncoderClassifier(backbone, len(spec.labels))
            if spec.task == "classification"
            else Decoder(backbone)
        )
    for part in architecture.frozen:
        chosen = [parameter for name, parameter in module.named_parameters() if part in name]
        if not chosen:
            raise ValueError(
                f"finetune.model.frozen: no parameter's name contains {part!r}; the first ones are "
                f"{', '.join(name for name, _ in list(module.named_parameters())[:5])}"
            )
        for parameter in chosen:
            parameter.requires_grad_(False)
    return module


def _require_positions(config: PreTrainedConfig, max_tokens: int) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in OFFSET_POSITIONS:
        positions -= (config.pad_token_id or 0) + 1
    if positions is not None and positions < max_tokens:
        raise ValueError(
            f"dataset.packing.sequence_length is {max_tokens} tokens, but the model ({config.model_type}) has "
            f"{positions} positions; lower it, or take a model for longer texts"
        )


def _pretrained(architecture: Architecture, spec: ModelSpec) -> PreTrainedModel:
    """The backbone with its weights; no code and no pickle from outside, safetensors only."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    base = resolve_base(str(architecture.base))
    auto = AutoModel if spec.task == "classification" else AutoModelForCausalLM
    # A pair, because of output_loading_info; the library's types do not say so.
    loaded: Any = auto.from_pretrained(
        base.place,
        revision=base.commit or "main",
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        attn_implementation=ATTENTION,
        **_pooler_off(base, spec),
        **architecture.config,
    )
    backbone, report = loaded
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:5])
        raise ValueError(
            f"{architecture.base} lacks weights of its own architecture: {missing}; "
            "take weights saved from this model type, or train from scratch"
        )
    return backbone


def save_model(module: nn.Module, tokenizer_json: str, spec: ModelSpec, folder: Path) -> None:
    """Write the model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_model(module, str(folder / "model.safetensors"))
    assert isinstance(module.config, PreTrainedConfig), "EncoderClassifier and Decoder have their backbone's"
    module.config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    text = json.dumps({**asdict(spec), "metric": spec.metric}, ensure_ascii=False, indent=2)
    (folder / "model_spec.json").write_text(text + "\n", encoding="utf-8")


def read_spec(folder: Path) -> ModelSpec:
    """What a model folder says of its model."""
    file = Path(folder) / "model_spec.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no model folder: it has no model_spec.json; finetune writes it")
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields.pop("metric")
    return ModelSpec(**{**fields, "labels": tuple(fields["labels"])})


def load_model(folder: Path) -> LoadedModel:
    """The model of a model folder, in evaluation mode on the CPU."""
    spec = read_spec(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    module = _module(spec, config)
    safetensors.torch.load_model(module, str(Path(folder) / "model.safetensors"))
    return LoadedModel(
        module.eval(), from_json((Path(folder) / "tokenizer.json").read_text(encoding="utf-8")), spec
    )


def _module(spec: ModelSpec, config: PreTrainedConfig) -> nn.Module:
    if spec.task == "classification":
        pooler = {"add_pooling_layer": False} if config.model_type in WITH_POOLER else {}
        return EncoderClassifier(
            AutoModel.from_config(config, attn_implementation=ATTENTION, **pooler), len(spec.labels)
        )
    return Decoder(AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION))


WITH_POOLER = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types whose unused pooler would otherwise be saved and averaged over ranks without ever having a gradient."""


OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")
"""Model types that number positions from behind the padding token."""


def _pooler_off(base: Base, spec: ModelSpec) -> dict[str, bool]:
    if spec.task != "classification":
        return {}
    model_type = AutoConfig.from_pretrained(
        base.place, revision=base.commit or "main", trust_remote_code=False
    ).model_type
    return {"add_pooling_layer": False} if model_type in WITH_POOLER else {}


def _config(keys: Mapping[str, Any], vocab_size: int) -> PreTrainedConfig:
    config = AutoConfig.for_model(keys["model_type"], vocab_size=vocab_size)
    unknown = [key for key in keys if not hasattr(config, key)]
    if unknown:
        raise ValueError(
            f"model type {keys['model_type']} has no setting {', '.join(unknown)}; "
            f"its settings: {', '.join(sorted(k for k in config.to_dict() if not k.startswith('_')))}"
        )
    return AutoConfig.for_model(**{**keys, "vocab_size": vocab_size})
