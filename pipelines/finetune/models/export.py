"""The model folder of a finished training, on the storage of its run."""

import hashlib
import tempfile
from pathlib import Path

from torch import nn

from pipelines.finetune.models.architecture import WEIGHTS_FILE, ModelSpec
from pipelines.finetune.models.folder import save_model
from pipelines.storage import Folder


def export_model(module: nn.Module, tokenizer_json: str, spec: ModelSpec, target: Folder) -> str:
    """Write the model folder to `target`; sha256 of its weights, 64 hex digits: of the file of whole weights,
    or over those of the adapter and the head. An adapter that is to be merged is merged in `module`."""
    digests: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        save_model(module, tokenizer_json, spec, Path(scratch))
        for file in sorted(each for each in Path(scratch).rglob("*") if each.is_file()):
            name, content = file.relative_to(scratch).as_posix(), file.read_bytes()
            if file.suffix == ".safetensors":
                digests[name] = hashlib.sha256(content).hexdigest()
            target.write(name, content)
    return digests.get(WEIGHTS_FILE) or hashlib.sha256(" ".join(digests.values()).encode()).hexdigest()
