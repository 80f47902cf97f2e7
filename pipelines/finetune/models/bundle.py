"""Several adapters and the base that they share, in one folder that needs nothing else:

    bundle.json      which adapters there are, and where each comes from
    base/            weights and configuration of the base, as transformers writes them, in float32
    adapters/NAME/   model folder of an adapter alone: adapter, head, tokenizer, task

An adapter belongs to the base by the sha256 of its weights, which is compared when the folder is written and
whenever it is loaded. So adapters of one base under two names go together, and others do not.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch

from pipelines.finetune.models.adapter import ADAPTER_FOLDER
from pipelines.finetune.models.architecture import ADAPTERS, BUNDLE_FILE, WEIGHTS_FILE, read_bundle, read_spec
from pipelines.finetune.models.build import build_on_base
from pipelines.finetune.models.folder import HEAD_FILE, LoadedModel, read_base_of, read_head
from pipelines.finetune.models.lora import find_backbone
from pipelines.finetune.models.sharing import SharingModule
from pipelines.finetune.models.together import load_together, require_one_base

BASE = "base"


def write_bundle(folders: Mapping[str, Path], origins: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write the model folders of adapters, by name, as one folder, and load it once. `origins`: what is known
    of each. Merged folders take part by their adapter.

    Raises ValueError for folders without an adapter or of another base than the first one, FileNotFoundError
    if the base is not here.
    """
    require_one_base({name: read_base_of(each) for name, each in folders.items()})
    first = Path(next(iter(folders.values())))
    module = build_on_base(read_base_of(first), read_spec(first))
    find_backbone(module)[1].save_pretrained(
        folder / BASE,
        save_original_format=False,  # names in a folder of ours begin otherwise
    )
    del module
    for name, loaded in load_together(folders, place=str(folder / BASE)).items():
        target, source = folder / ADAPTERS / name, Path(folders[name])
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(WEIGHTS_FILE, HEAD_FILE))
        if not (target / ADAPTER_FOLDER).is_dir():
            raise FileNotFoundError(f"{source} lost its adapter meanwhile")
        assert isinstance(loaded.module, SharingModule), "load_together wraps every model"
        if head := read_head(loaded.module.module):
            safetensors.torch.save_file(head, target / HEAD_FILE)
    text = json.dumps({"adapters": origins}, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    (folder / BUNDLE_FILE).write_text(text, encoding="utf-8")


def load_bundle(folder: Path) -> dict[str, LoadedModel]:
    """The models of a bundle by name, with the base in memory once. Raises ValueError if a file of it was
    changed."""
    names = read_bundle((folder / BUNDLE_FILE).read_bytes())
    return load_together({name: folder / ADAPTERS / name for name in names}, place=str(folder / BASE))
