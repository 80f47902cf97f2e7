"""Which adapter is trained, and which base weights it belongs to. No torch here: a configuration is checked
without loading it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

ADAPTER_FOLDER = "adapter"
"""In a model folder: the adapter in PEFT's own format, and BASE_FILE."""
BASE_FILE = "base.json"
KINDS = ("lora", "rslora", "dora", "adalora", "bottleneck", "prefix")
MERGEABLE = ("lora", "rslora", "dora", "adalora")
"""Kinds that can be added to the weights of the base. The others add layers or keys and values."""
WHOLE_GRADIENTS = ("auto", "single", "data_parallel")
"""Strategies whose ranks hold the summed gradient of every parameter."""
NEEDS_WHOLE_GRADIENTS = (
    "finetune.model.adapter.kind adalora looks at the gradients of the global batch, which no rank of this "
    "strategy holds whole; set finetune.strategy=data_parallel, which costs little: an adapter has a small "
    "optimizer state"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSchedule:
    """How adalora gives its ranks to layers: all layers start with `initial_rank`, the directions that matter
    least over all layers are set to zero, and `rank` of a layer are left on average.
    """

    initial_rank: int | None = None
    """Rank of every layer at the start; null = 1.5 times rank, rounded up."""
    warmup_fraction: float = 0.1
    """Share of steps, the first ones, in which every layer keeps its initial rank."""
    final_fraction: float = 0.2
    """Share of steps, the last ones, in which the ranks do not change."""
    every_steps: int = 1
    """Steps between two allocations."""
    orthogonality: float = 0.5
    """Weight of the penalty that keeps the directions of a layer orthogonal."""

    def __post_init__(self) -> None:
        name = "finetune.model.adapter.adalora"
        for field_name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, field_name) < 1:
                raise ValueError(f"{name}.{field_name} must be in [0, 1), got {getattr(self, field_name)}")
        if self.warmup_fraction + self.final_fraction >= 1:
            raise ValueError(
                f"{name}: warmup_fraction and final_fraction must leave steps between them, got "
                f"{self.warmup_fraction} and {self.final_fraction}"
            )
        if self.every_steps < 1:
            raise ValueError(f"{name}.every_steps must be at least 1, got {self.every_steps}")
        if not 0 <= self.orthogonality < math.inf:
            raise ValueError(f"{name}.orthogonality must be at least 0 and finite, got {self.orthogonality}")

    def plan(self, total_steps: int) -> tuple[int, int]:
        """(first steps without, last steps without a change of ranks); at least one step lies between."""
        final = min(round(self.final_fraction * total_steps), total_steps - 1)
        return min(round(self.warmup_fraction * total_steps), total_steps - final - 1), final


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """Small weights beside a frozen base. Only they are trained, and a head that the task adds.

    LoRA (Hu et al. 2021): the output of a linear layer of weight W becomes W x + scale B A x.
    """

    kind: str | None = None
    """lora: scale = alpha / rank. rslora: scale = alpha / sqrt(rank) (Kalajdzievski 2023). dora: lora, and a
    trained length of each row of W (Liu et al. 2024). adalora: B E A x with a diagonal E, whose ranks move to
    the layers that need them (Zhang et al. 2023). bottleneck: a small network behind attention and
    feed-forward (Houlsby et al. 2019). prefix: trained keys and values before those of the text (Li and Liang
    2021). null = all weights are trained."""
    rank: int = 16
    """Rows of A, columns of B; of adalora the mean at the end; of a bottleneck the width of its middle."""
    alpha: int = 32
    """Not used by bottleneck and prefix."""
    dropout: float = 0.0
    """Share of the inputs of an adapter that are dropped in training; a prefix has none."""
    target_modules: Literal["all_linear"] | tuple[str, ...] = "all_linear"
    """Linear layers that get an adapter, by the end of their names, such as q_proj. all_linear = all but the
    output head; for a bottleneck the last layer of each attention and feed-forward. Not for a prefix."""
    merge: bool | None = None
    """Whether the model folder holds whole weights with the adapter added, beside the adapter alone. false =
    the adapter alone, which needs the base wherever it is used. null = true where the kind can be merged."""
    prefix_tokens: int = 20
    """Keys and values of a prefix, in each layer."""
    adalora: RankSchedule = field(default_factory=RankSchedule)

    def __post_init__(self) -> None:
        name = "finetune.model.adapter"
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"{name}.kind must be {', '.join(KINDS)} or null, got {self.kind!r}")
        for field_name in ("rank", "alpha", "prefix_tokens"):
            if getattr(self, field_name) < 1:
                raise ValueError(f"{name}.{field_name} must be at least 1, got {getattr(self, field_name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{name}.dropout must be in [0, 1), got {self.dropout}")
        if not self.target_modules:
            raise ValueError(f"{name}.target_modules must be all_linear or name a layer, got []")
        if self.merge and self.kind is not None and self.kind not in MERGEABLE:
            raise ValueError(
                f"{name}.merge is true, but kind {self.kind} can't be added to the weights of the base; set "
                f"{name}.merge=false, or take {', '.join(MERGEABLE)}"
            )
        if self.merge is None and self.kind is not None:
            object.__setattr__(self, "merge", self.kind in MERGEABLE)
        if self.kind == "prefix" and (self.dropout or self.target_modules != "all_linear"):
            raise ValueError(
                f"{name}: kind prefix has no dropout and no target_modules, got {self.dropout} and "
                f"{self.target_modules!r}; leave both out"
            )
        if self.kind == "adalora" and self.initial_rank <= self.rank:
            raise ValueError(
                f"{name}.adalora.initial_rank must be greater than rank ({self.rank}), got "
                f"{self.initial_rank}"
            )

    @property
    def initial_rank(self) -> int:
        """The rank that adalora starts with."""
        given = self.adalora.initial_rank
        return -(-3 * self.rank // 2) if given is None else given

    def identity(self) -> dict[str, Any]:
        """What the weights depend on. Fields of other kinds are left out, so that earlier trainings keep
        their fingerprint."""
        other = {"prefix": "prefix_tokens", "adalora": "adalora"}
        unused = {name for kind, name in other.items() if kind != self.kind}
        return {name: value for name, value in asdict(self).items() if name not in unused}

    def require_strategy(self, strategy: str) -> None:
        """Raise ValueError if ranks under `strategy` can't train this kind."""
        if self.kind == "adalora" and strategy not in WHOLE_GRADIENTS:
            raise ValueError(NEEDS_WHOLE_GRADIENTS)

    def describe(self) -> dict[str, str]:
        """What is trained, for a person; empty without an adapter."""
        if self.kind is None:
            return {}
        layers = "all linear layers" if self.kind != "bottleneck" else "each attention and feed-forward"
        layers = layers if self.target_modules == "all_linear" else ", ".join(self.target_modules)
        folder = "whole weights and the adapter" if self.merge else "the adapter alone"
        size = {
            "prefix": f"of {self.prefix_tokens} tokens in each layer",
            "bottleneck": f"of width {self.rank} behind {layers}",
            "adalora": f"of rank {self.initial_rank}, then {self.rank} on average, and alpha {self.alpha} on "
            f"{layers}",
        }.get(self.kind, f"of rank {self.rank} and alpha {self.alpha} on {layers}")
        text = f"{self.kind} {size}; the base stays as it is"
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
