"""The model folder: `model.safetensors`, `config.json`, `tokenizer.json`, `model_spec.json`. A model of
conversations also has `chat_template.jinja`, `tokenizer_config.json` and `generation_config.json`.

Nothing in it is ever unpickled, and it holds no code but the template, which runs in a sandbox.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

from pipelines.dataset.chat_format import TEMPLATE_FILE, ChatFormat
from pipelines.dataset.chat_template import CONFIG_FILE
from pipelines.dataset.tokenizer import from_json
from pipelines.finetune.models.architecture import SPEC_FILE, ModelSpec, describe_spec, read_spec
from pipelines.finetune.models.build import build_from_config
from pipelines.finetune.tasks.conversations import ConversationReader
from pipelines.finetune.tasks.table import build_task

WEIGHTS_FILE = "model.safetensors"


class LoadedModel(NamedTuple):
    module: nn.Module
    tokenizer: Tokenizer
    spec: ModelSpec


def save_model(module: nn.Module, tokenizer_json: str, spec: ModelSpec, folder: Path) -> None:
    """Write the model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _save_weights(module, folder / WEIGHTS_FILE)
    assert isinstance(module.config, PreTrainedConfig), "every module of this package has its backbone's"
    module.config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")

    if spec.chat is not None:
        _save_chat(spec.chat, tokenizer_json, spec, folder)
    _write_json({**describe_spec(spec), "metric": build_task(spec).metric}, folder / SPEC_FILE)


def _save_weights(module: nn.Module, file: Path) -> None:
    """Write each weight once. What is tied to the token embeddings goes under their name, because a model
    with another head, such as a classifier, has the embeddings and nothing else of it."""
    backbone = next(each for each in module.modules() if isinstance(each, PreTrainedModel))
    embeddings = backbone.get_input_embeddings()
    kept = next(f"{name}.weight" for name, each in module.named_modules() if each is embeddings)
    weights = module.state_dict(keep_vars=True)  # tied ones are one tensor
    tied = [name for name in weights if name != kept and weights[name] is weights.get(kept)]

    def leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in tied:
            del state[name]

    hook = module.register_state_dict_post_hook(leave_out)
    try:
        safetensors.torch.save_model(module, str(file), metadata=dict.fromkeys(tied, kept) or None)
    finally:
        hook.remove()
    _sort_metadata(file)


def _sort_metadata(file: Path) -> None:
    """Equal weights make equal files: safetensors writes the names of tied weights in an order that changes
    from call to call. The header keeps its length."""
    with open(file, "r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(size))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
            assert len(content) == size, "the same names in another order"
            stream.seek(8)
            stream.write(content)


def _save_chat(chat: ChatFormat, tokenizer_json: str, spec: ModelSpec, folder: Path) -> None:
    """Write the template, and what else transformers and servers of other projects read: names of special
    tokens, and those that end an answer."""
    if chat.template is not None:
        (folder / TEMPLATE_FILE).write_text(chat.template, encoding="utf-8", newline="")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": spec.max_tokens,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(config | dict(chat.variables), folder / CONFIG_FILE)
    stop_ids = ConversationReader(from_json(tokenizer_json), spec).stop_ids
    GenerationConfig(eos_token_id=sorted(stop_ids)).save_pretrained(folder)


def _write_json(content: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path) -> LoadedModel:
    """The model of a folder, in evaluation mode on the CPU. Raises FileNotFoundError if there is no model."""
    spec = read_spec(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    module = build_from_config(config, spec)
    safetensors.torch.load_model(module, str(Path(folder) / WEIGHTS_FILE))

    file = Path(folder) / "tokenizer.json"
    tokenizer = from_json(file.read_text(encoding="utf-8"), str(file))
    return LoadedModel(module.eval(), tokenizer, spec)
