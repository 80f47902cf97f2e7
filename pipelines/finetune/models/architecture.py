"""What a model is, apart from its weights: where it starts (Architecture) and what its folder says of it
(ModelSpec).

No torch and no transformers here: a configuration is checked, and a model folder described, without loading
either.
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pipelines.dataset.chat_format import TEMPLATE_FILE, ChatFormat, from_fields, read_template
from pipelines.dataset.examples.table import load_builder
from pipelines.finetune.models.adapter import ADAPTER_FOLDER, MERGEABLE, Adapter
from pipelines.finetune.preference import PreferenceLoss

SPEC_FILE, WEIGHTS_FILE = "model_spec.json", "model.safetensors"
BUNDLE_FILE, ADAPTERS = "bundle.json", "adapters"
"""In a folder with several adapters and their base: what it holds, in place of SPEC_FILE, and the folder with
a model folder for each adapter; see `bundle`."""


Pooling = Literal["mean", "cls", "last"]


NEXT_TOKEN_TASKS = ("language_modelling", "chat", "prompt_response")
"""Tasks whose model gives the logits of next tokens."""
NO_NEXT_TOKENS = (
    f"finetune.max_logit_tokens is for tasks that predict next tokens ({', '.join(NEXT_TOKEN_TASKS)}), which "
    "this model does not; set it to null"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalRules:
    """How a model of task retrieval makes one vector of a text, and how its loss compares vectors."""

    temperature: float = 0.05
    """Cosines are divided by it before the softmax: smaller = only the nearest candidates count."""
    pooling: Pooling = "mean"
    """mean of all tokens, cls (the first token) or last (the last one, which in a decoder has seen all)."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be greater than 0 and finite, got {self.temperature}")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be {' or '.join(get_args(Pooling))}, got {self.pooling!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """What a model folder must say beside weights and configuration."""

    task: str
    """Name of the task, a key of `finetune.tasks.table.TASKS`."""
    labels: tuple[str, ...]
    """Class names by class number; empty for language modelling."""
    max_tokens: int
    """Most tokens of one sequence."""
    base: str
    """What the weights were started from: a path, package or hub id; "scratch" = random."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    end_token_id: int | None = None
    """Token that ends a document; null = the last special token that the tokenizer adds to a text."""
    chat: ChatFormat | None = None
    """How conversations are written; null = the task has none."""
    mask_token_id: int | None = None
    """Token that stands for a masked one; null = the task masks none, as in the two fields below."""
    vocab_size: int | None = None
    """Tokens of the tokenizer."""
    mask_fraction: float | None = None
    """Share of the tokens that are masked."""
    preference: PreferenceLoss | None = None
    """What a pair of responses adds to the loss; null = the task has no pairs."""
    retrieval: RetrievalRules | None = None
    """How texts become vectors; null = the task makes none."""

    label_threshold: float | None = None
    """Probability from which a class belongs to the set of a document; null = the task has no sets."""

    @property
    def needs_reference(self) -> bool:
        """Whether the training compares with the model that it starts from."""
        return self.preference is not None and self.preference.needs_reference

    def identity(self) -> dict[str, Any]:
        """What the weights depend on. What a task does not have is left out, so that earlier trainings keep
        their fingerprint."""
        fields = asdict(replace(self, chat=None)) | {"chat": self.chat and self.chat.fingerprint}
        optional = {"chat", "mask_token_id", "vocab_size", "mask_fraction", "preference", "retrieval"}
        optional |= {"label_threshold"}
        return {name: value for name, value in fields.items() if value is not None or name not in optional}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Where a model starts: weights by name, or `config` of a transformers model type from scratch."""

    base: str | None = None
    """Folder, package://NAME/FOLDER, hub id or MLflow's name (models:/NAME/3, models:/NAME@champion,
    runs:/RUN_ID/PATH); null = from scratch."""
    config: dict[str, Any] = field(default_factory=dict)
    """From scratch: model_type and its keys, as in a transformers config.json. With a base: keys to change,
    such as dropout.
    """
    frozen: tuple[str, ...] = ()
    """Parts of names of parameters that are not trained, such as word_embeddings."""
    adapter: Adapter = field(default_factory=Adapter)

    def __post_init__(self) -> None:
        if self.adapter.kind is not None and not self.adapter.merge and self.base is None:
            remedy = "set merge=true or " if self.adapter.kind in MERGEABLE else ""
            raise ValueError(
                "finetune.model.adapter.merge=false needs finetune.model.base, because weights from scratch "
                f"can't be found again; {remedy}name a base"
            )

    def identity(self) -> dict[str, Any]:
        """What the weights depend on. Without an adapter it is left out, so that earlier trainings keep their
        fingerprint."""
        fields = asdict(self) | {"adapter": self.adapter.identity()}
        if self.adapter.kind is None:
            del fields["adapter"]
        return fields

    def start(self) -> str:
        """The name of the base, or "scratch". Raises ValueError if neither base nor model_type is given."""
        if self.base is None and "model_type" not in self.config:
            raise ValueError(
                "finetune.model needs base (a folder, package://NAME/FOLDER or hub id) "
                "or config.model_type (from scratch)"
            )
        return self.base or "scratch"


def read_spec(folder: Path) -> ModelSpec:
    """The spec of a model folder. Raises FileNotFoundError if the folder holds no model, ValueError if its
    chat template is too long, or if it was trained on conversations and has none. The template is only
    read."""
    fields = _read(folder)
    _require_chat(fields, f"the model in {folder}")
    fields.pop("metric")
    if (chat := fields.get("chat")) is not None:
        file, name = Path(folder) / TEMPLATE_FILE, f"{TEMPLATE_FILE} of the model"
        template = read_template(file, name) if chat.pop("has_template") else None
        fields["chat"] = from_fields(chat, template, name)
    if (preference := fields.get("preference")) is not None:
        fields["preference"] = PreferenceLoss(**preference)
    if (retrieval := fields.get("retrieval")) is not None:
        fields["retrieval"] = RetrievalRules(**retrieval)
    return ModelSpec(**{**fields, "labels": tuple(fields["labels"])})


def describe_spec(spec: ModelSpec) -> dict[str, Any]:
    """The fields of a spec as a model folder keeps them: the chat template has a file of its own."""
    fields = asdict(spec)
    del fields["chat"]
    if spec.chat is not None:
        fields["chat"] = {**spec.chat.to_fields(), "has_template": spec.chat.template is not None}
    return fields


def is_adapter_alone(folder: Path) -> bool:
    """Whether the weights of a model folder need those of a base."""
    return (Path(folder) / ADAPTER_FOLDER).is_dir() and not (Path(folder) / WEIGHTS_FILE).is_file()


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds several adapters with their base."""
    return (Path(folder) / BUNDLE_FILE).is_file()


def read_bundle(content: bytes) -> dict[str, dict[str, Any]]:
    """Adapter -> what is known of it, from the content of a BUNDLE_FILE. Raises ValueError for names that
    could lead out of the folder."""
    adapters: dict[str, dict[str, Any]] = json.loads(content)["adapters"]
    for name in adapters:
        if not name.isidentifier():
            raise ValueError(f"a bundle has an adapter {name!r}; its name must be letters, digits and _")
    return adapters


class Use(NamedTuple):
    """What scoring and the gate must know of a model before a worker loads it."""

    metric: str
    """The metric that decides about it, a key of `pipelines.metrics.METRICS`."""
    reads_parts: bool
    """Whether it reads the parts of documents: conversations, and pairs of texts."""
    task: str


def parse_use(spec: bytes, what: str) -> Use:
    """The use of a model from the content of its SPEC_FILE; `what` names it.

    Raises ValueError if it was trained on conversations and does not say how they are written.
    """
    fields = json.loads(spec)
    _require_chat(fields, what)
    task = str(fields["task"])
    return Use(str(fields["metric"]), "parts" in load_builder(task).columns, task)


def _require_chat(fields: dict[str, Any], what: str) -> None:
    if "chat" not in fields and load_builder(str(fields["task"])).is_chat:
        raise ValueError(
            f"{what} was trained by an earlier Distributary and has no template; train again, and remove its "
            "alias champion in MLflow if it has it"
        )


def _read(folder: Path) -> dict[str, Any]:
    file = Path(folder) / SPEC_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} is no model folder: it has no {SPEC_FILE}; give a folder that the finetune stage wrote"
        )
    fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return fields
