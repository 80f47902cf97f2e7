"""Several models that were trained with adapters on one base, in memory together: the base once, and for each
model its adapter and head.
"""

import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from pipelines.finetune.models.adapter import ADAPTER_FOLDER, BaseWeights
from pipelines.finetune.models.adapter_files import load_adapter
from pipelines.finetune.models.architecture import read_spec
from pipelines.finetune.models.folder import (
    LoadedModel,
    load_head,
    load_on_base,
    read_base_of,
    read_tokenizer_of,
)
from pipelines.finetune.models.lora import DEFAULT, find_backbone
from pipelines.finetune.models.sharing import SharingModule
from pipelines.finetune.tasks.table import build_task


def load_together(folders: Mapping[str, Path], *, place: str | None = None) -> dict[str, LoadedModel]:
    """The models of several folders by name, in evaluation mode on the CPU; outputs as of each alone, before
    a merge. Threads may use them at once, and wait for each other.

    All weights of the base are in memory once: moving one model to a device moves all. `place`: where the
    base is, if not where the folders say. Raises ValueError for folders without an adapter, or with one of
    another base or with other keys of finetune.model.config."""
    require_one_base({name: read_base_of(folder) for name, folder in folders.items()})
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


def require_one_base(bases: Mapping[str, BaseWeights]) -> None:
    """Raise ValueError unless all adapters belong to the same weights and configuration."""
    for (one, base), (other, another) in pairwise(bases.items()):
        if base.sha256 != another.sha256:
            if base.commit is not None and (base.name, base.commit) == (another.name, another.commit):
                raise ValueError(
                    f"models {one!r} and {other!r} were trained from {base.place}, but on other parts of it: "
                    "classifiers and retrieval have no head of the base, masked and causal language models "
                    f"have theirs (sha256 {base.sha256} and {another.sha256}); bundle the tasks of each "
                    "group apart"
                )
            raise ValueError(
                f"models {one!r} and {other!r} belong to different bases: {base.place}, sha256 "
                f"{base.sha256}, and {another.place}, sha256 {another.sha256}; load them apart"
            )
        if base.config != another.config:
            raise ValueError(
                f"models {one!r} and {other!r} changed other keys of their base, {base.config} and "
                f"{another.config}; load them apart"
            )
