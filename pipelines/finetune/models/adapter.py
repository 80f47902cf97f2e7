"""Which adapter is trained, and which base weights it belongs to. No torch here: a configuration is checked
without loading it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

ADAPTER_FOLDER = "adapter"
"""In a model folder: the adapter in PEFT's own format, and BASE_FILE."""
BASE_FILE = "base.json"
KINDS = ("lora", "rslora", "dora")
REFUSED = {
    "adalora": "it moves rank between layers by a schedule of its own and adds a term to the loss",
    "houlsby": "PEFT has no bottleneck adapters",
    "prefix": "its tokens take part in the attention of packed documents and can't be merged",
}
"""Kinds that the training loop would not train exactly, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """Low-rank matrices beside frozen linear layers (LoRA, Hu et al. 2021): the output of a layer of weight W
    becomes W x + scale B A x. Only A and B are trained, and a head that the task adds.
    """

    kind: str | None = None
    """lora: scale = alpha / rank. rslora: scale = alpha / sqrt(rank) (Kalajdzievski 2023). dora: lora, and a
    trained length of each row of W (Liu et al. 2024). null = all weights are trained."""
    rank: int = 16
    """Rows of A, columns of B."""
    alpha: int = 32
    dropout: float = 0.0
    """Share of the inputs of A that are dropped in training."""
    target_modules: Literal["all_linear"] | tuple[str, ...] = "all_linear"
    """Linear layers that get an adapter, by the end of their names, such as q_proj. all_linear = all but the
    output head."""
    merge: bool = True
    """Whether the model folder holds whole weights with the adapter added, beside the adapter alone. false =
    the adapter alone, which needs the base wherever it is used."""

    def __post_init__(self) -> None:
        name = "finetune.model.adapter"
        if self.kind in REFUSED:
            raise ValueError(
                f"{name}.kind {self.kind!r} is not offered: {REFUSED[self.kind]}; take {', '.join(KINDS)}"
            )
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"{name}.kind must be {', '.join(KINDS)} or null, got {self.kind!r}")
        for field_name in ("rank", "alpha"):
            if getattr(self, field_name) < 1:
                raise ValueError(f"{name}.{field_name} must be at least 1, got {getattr(self, field_name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{name}.dropout must be in [0, 1), got {self.dropout}")
        if not self.target_modules:
            raise ValueError(f"{name}.target_modules must be all_linear or name a layer, got []")

    def describe(self) -> dict[str, str]:
        """What is trained, for a person; empty without an adapter."""
        if self.kind is None:
            return {}
        layers = (
            "all linear layers" if self.target_modules == "all_linear" else ", ".join(self.target_modules)
        )
        folder = "whole weights and the adapter" if self.merge else "the adapter alone"
        text = f"{self.kind} of rank {self.rank} and alpha {self.alpha} on {layers}; the base stays as it is"
        return {"adapter": f"{text}, and the model folder holds {folder}"}


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseWeights:
    """The frozen weights that an adapter belongs to."""

    sha256: str
    """Of names, types, shapes and values of the weights, wherever they were read from."""
    name: str | None
    """Where they are found again: a folder, package://NAME/FOLDER or hub id. None = nowhere, because they
    were drawn from a seed."""
    commit: str | None = None
    """On the hub."""
    config: dict[str, Any] = field(default_factory=dict)
    """Keys of the base's configuration that the training changed."""

    @property
    def place(self) -> str:
        """What a person, and the configuration, calls them."""
        if self.name is None:
            return "drawn from the seed"
        return self.name if self.commit is None else f"{self.name}@{self.commit}"

    def require(self, found: str, what: str) -> None:
        """Raise ValueError unless `found` is the sha256 of these weights; `what` names who needs them."""
        if found != self.sha256:
            raise ValueError(
                f"{what} belongs to the base weights {self.place} with sha256 {self.sha256}, but the base "
                f"has sha256 {found} now; bring back the weights it was trained on, or train again"
            )


def write_base(base: BaseWeights, folder: Path) -> None:
    """Say in the adapter folder which weights it belongs to."""
    text = json.dumps(asdict(base), ensure_ascii=False, indent=2) + "\n"
    (folder / BASE_FILE).write_text(text, encoding="utf-8")


def read_base(folder: Path) -> BaseWeights:
    """What `write_base` wrote."""
    fields: Mapping[str, Any] = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    return BaseWeights(**fields)
