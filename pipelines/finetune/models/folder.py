"""The model folder: `model.safetensors`, `config.json`, `tokenizer.json`, `model_spec.json`. A model of
conversations also has `chat_template.jinja`, `tokenizer_config.json` and `generation_config.json`.

A model that was trained with an adapter also has the folder `adapter/`: the adapter alone in PEFT's format,
and `base.json`, which names its base. If it was not to be merged, there is no `model.safetensors`: the
weights are those of the base, of the adapter and, for a classifier, of `head.safetensors`.

Nothing in it is ever unpickled, and it holds no code but the template, which runs in a sandbox.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from pipelines.dataset.artefacts import NoStoreError
from pipelines.dataset.chat_format import TEMPLATE_FILE, ChatFormat
from pipelines.dataset.chat_template import CONFIG_FILE
from pipelines.dataset.tokenizer import from_json
from pipelines.finetune.models.adapter import ADAPTER_FOLDER, BASE_FILE, BaseWeights, read_base
from pipelines.finetune.models.adapter_files import load_adapter, save_adapter
from pipelines.finetune.models.architecture import (
    SPEC_FILE,
    WEIGHTS_FILE,
    ModelSpec,
    describe_spec,
    is_adapter_alone,
    read_spec,
)
from pipelines.finetune.models.build import build_from_config, build_on_base
from pipelines.finetune.models.lora import find_attached, find_backbone, merge_adapter, read_state
from pipelines.finetune.tasks.conversations import ConversationReader
from pipelines.finetune.tasks.table import build_task

HEAD_FILE = "head.safetensors"


class LoadedModel(NamedTuple):
    module: nn.Module
    tokenizer: Tokenizer
    spec: ModelSpec


def save_model(module: nn.Module, tokenizer_json: str, spec: ModelSpec, folder: Path) -> None:
    """Write the model folder. An adapter that is to be merged is merged in `module` itself: a copy would take
    the memory of a second model."""
    folder.mkdir(parents=True, exist_ok=True)
    attached = find_attached(module)
    if attached is not None:
        save_adapter(module, folder / ADAPTER_FOLDER)
    if attached is not None and attached.merge:
        merge_adapter(module)
    if attached is None or attached.merge:
        _save_weights(module, folder / WEIGHTS_FILE)
    elif head := read_head(module):
        safetensors.torch.save_file(head, folder / HEAD_FILE)
    assert isinstance(module.config, PreTrainedConfig), "every module of this package has its backbone's"
    module.config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")

    if spec.chat is not None:
        _save_chat(spec.chat, tokenizer_json, spec, folder)
    _write_json({**describe_spec(spec), "metric": build_task(spec).metric}, folder / SPEC_FILE)


def read_head(module: nn.Module) -> dict[str, Tensor]:
    """The weights outside of the backbone, by name."""
    prefix, _ = find_backbone(module)
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in read_state(module).items()
        if not name.startswith(prefix)
    }


def _save_weights(module: nn.Module, file: Path) -> None:
    """Write each weight once. What is tied to the token embeddings goes under their name, because a model
    with another head, such as a classifier, has the embeddings and nothing else of it."""
    _, backbone = find_backbone(module)
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
    """The model of a folder, in evaluation mode on the CPU.

    Raises FileNotFoundError if there is no model or if the base of an adapter is not there, ValueError if the
    base is another one.
    """
    spec = read_spec(folder)
    if is_adapter_alone(folder):
        module = load_on_base(Path(folder), spec)
    else:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        module = build_from_config(config, spec)
        safetensors.torch.load_model(module, str(Path(folder) / WEIGHTS_FILE))
    return LoadedModel(module.eval(), read_tokenizer_of(folder), spec)


def read_tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder."""
    file = Path(folder) / "tokenizer.json"
    return from_json(file.read_text(encoding="utf-8"), str(file))


def load_head(module: nn.Module, folder: Path) -> None:
    """Put the weights outside of the backbone into `module`, from their own file or from that of whole
    weights. Raises ValueError if they are others."""
    prefix, _ = find_backbone(module)
    file, wanted = Path(folder) / HEAD_FILE, sorted(read_head(module))
    if not wanted:
        return
    with safe_open(file if file.is_file() else Path(folder) / WEIGHTS_FILE, framework="pt") as opened:
        names = sorted(name for name in opened.keys() if not name.startswith(prefix))  # noqa: SIM118  # no dict
        if names != wanted:
            raise ValueError(f"{file} has the weights {names}, but the head has {wanted}; restore the file")
        module.load_state_dict({name: opened.get_tensor(name) for name in names}, strict=False)


def read_base_of(folder: Path) -> BaseWeights:
    """Which weights the adapter of a model folder belongs to. Raises ValueError if it has none, or if they
    can't be found again."""
    if not (Path(folder) / ADAPTER_FOLDER / BASE_FILE).is_file():
        raise ValueError(f"{folder} has no adapter; give model folders that were trained with one")
    base = read_base(Path(folder) / ADAPTER_FOLDER)
    if base.name is None:
        raise ValueError(
            f"the base of {folder} was drawn from a seed and is kept nowhere; load the whole model"
        )
    return base


def load_on_base(folder: Path, spec: ModelSpec, *, place: str | None = None) -> nn.Module:
    """The module of a folder with its adapter apart from the weights of its base, which are read at `place`
    if it is given. Errors as `load_model`."""
    base = read_base_of(folder)
    base = base if place is None else replace(base, name=place, commit=None)
    try:
        module = build_on_base(base, spec)
    except NoStoreError as error:
        raise NoStoreError(
            f"{folder} needs its base {base.place}, and this process does not reach MLflow; train again with "
            "finetune.model.adapter.merge=true, or on a folder with the base"
        ) from error
    except (FileNotFoundError, ConnectionError) as error:
        raise type(error)(
            f"{folder} needs its base, which is not here: {error}; bring the base to {base.place}, or train "
            "again with finetune.model.adapter.merge=true"
        ) from error
    load_adapter(module, folder / ADAPTER_FOLDER)
    load_head(module, folder)
    return module
