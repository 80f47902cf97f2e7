"""The model folder: `model.safetensors`, `config.json`, `tokenizer.json`, `model_spec.json`.

Nothing in it is ever unpickled, and it holds no code.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from pipelines.dataset.tokenizer import from_json
from pipelines.finetune.models.architecture import SPEC_FILE, ModelSpec, read_spec
from pipelines.finetune.models.build import build_from_config
from pipelines.finetune.tasks.table import build_task

WEIGHTS_FILE = "model.safetensors"


class LoadedModel(NamedTuple):
    module: nn.Module
    tokenizer: Tokenizer
    spec: ModelSpec


def save_model(module: nn.Module, tokenizer_json: str, spec: ModelSpec, folder: Path) -> None:
    """Write the model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_model(module, str(folder / WEIGHTS_FILE))
    assert isinstance(module.config, PreTrainedConfig), "every module of this package has its backbone's"
    module.config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")

    text = json.dumps({**asdict(spec), "metric": build_task(spec).metric}, ensure_ascii=False, indent=2)
    (folder / SPEC_FILE).write_text(text + "\n", encoding="utf-8")


def load_model(folder: Path) -> LoadedModel:
    """The model of a folder, in evaluation mode on the CPU. Raises FileNotFoundError if there is no model."""
    spec = read_spec(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    module = build_from_config(config, spec)
    safetensors.torch.load_model(module, str(Path(folder) / WEIGHTS_FILE))

    file = Path(folder) / "tokenizer.json"
    tokenizer = from_json(file.read_text(encoding="utf-8"), str(file))
    return LoadedModel(module.eval(), tokenizer, spec)
