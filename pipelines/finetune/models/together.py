"""Several models that were trained with adapters on one base, in memory together: the base once, and for each
model its adapter and head.
"""

import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from pipelines.finetune.models.adapter import ADAPTER_FOLDER, BaseWeights
from pipelines.finetune.models.adapter_files import activate_adapter, load_adapter
from pipelines.finetune.models.architecture import read_spec
from pipelines.finetune.models.folder import (
    LoadedModel,
    load_head,
    load_on_base,
    read_base_of,
    read_tokenizer_of,
)
from pipelines.finetune.models.lora import DEFAULT, find_backbone
from pipelines.finetune.tasks.table import build_task


class SharingModule(nn.Module):
    """A model that shares its backbone with others: one of them runs at a time."""

    def __init__(self, module: nn.Module, adapter: str, active: list[str], lock: threading.Lock) -> None:
        """`active` and `lock` are of the backbone: the name of its active adapter, and who may change it."""
        super().__init__()
        self.module, self._adapter, self._active, self._lock = module, adapter, active, lock

    @property
    def config(self) -> PreTrainedConfig:
        config: Any = self.module.config
        return config

    def forward(self, **inputs: Any) -> Any:
        """The outputs of the model with its own adapter."""
        with self._lock:
            if self._active != [self._adapter]:
                activate_adapter(self.module, self._adapter)
                self._active[:] = [self._adapter]
            return self.module(**inputs)


def load_together(folders: Mapping[str, Path], *, place: str | None = None) -> dict[str, LoadedModel]:
    """The models of several folders by name, in evaluation mode on the CPU; outputs as of each alone, before
    a merge. Threads may use them at once, and wait for each other.

    All weights of the base are in memory once: moving one model to a device moves all. `place`: where the
    base is, if not where the folders say. Raises ValueError for folders without an adapter, or with one of
    another base or with other keys of finetune.model.config."""
    _require_one_base({name: read_base_of(folder) for name, folder in folders.items()})
    loaded: dict[str, LoadedModel] = {}
    active, lock, backbone = list[str](), threading.Lock(), None
    for number, (name, folder) in enumerate(folders.items()):
        spec, adapter = read_spec(folder), f"adapter{number}" if number else DEFAULT
        if backbone is None:
            module = load_on_base(Path(folder), spec, place=place)
            _, backbone = find_backbone(module)
        else:
            module = build_task(spec).build_module(backbone)
            load_adapter(module, Path(folder) / ADAPTER_FOLDER, name=adapter)
            load_head(module, folder)
        shared = SharingModule(module, adapter, active, lock)
        loaded[name] = LoadedModel(shared.eval(), read_tokenizer_of(folder), spec)
    return loaded


def _require_one_base(bases: Mapping[str, BaseWeights]) -> None:
    for (one, base), (other, another) in pairwise(bases.items()):
        if base.sha256 != another.sha256:
            raise ValueError(
                f"models {one!r} and {other!r} belong to different bases: {base.place}, sha256 "
                f"{base.sha256}, and {another.place}, sha256 {another.sha256}; load them apart"
            )
        if base.config != another.config:
            raise ValueError(
                f"models {one!r} and {other!r} changed other keys of their base, {base.config} and "
                f"{another.config}; load them apart"
            )
