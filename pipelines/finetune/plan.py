"""The training that a configuration means, planned without torch."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.dataset.artefacts import is_artefact
from pipelines.finetune.losses.tasks import require_task
from pipelines.finetune.models.adapter import MERGEABLE
from pipelines.finetune.models.architecture import NEXT_TOKEN_TASKS, NO_NEXT_TOKENS, Architecture, ModelSpec
from pipelines.finetune.parallel.rules import choose_collectives, require_supported
from pipelines.finetune.preference import PREFERENCE
from pipelines.finetune.teacher import Teacher, require_teachable
from pipelines.finetune.training import REVISION, BatchPlan, Cadence, Data, Execution, Schedule, Training

if TYPE_CHECKING:
    from pipelines.dataset.chat_format import ChatFormat
    from pipelines.pin import Pin

_Value = TypeVar("_Value")


def make_training(settings: Any, sequences: "Pin") -> Training:
    """The training that `settings` (the finetune section of the configuration) means on pinned sequences.

    Raises ValueError if the strategy can't do it, if ranks cannot share a global batch, if torch lacks the
    optimizer, if max_logit_tokens has nothing to limit, if the task can't have a teacher, if who uses an
    adapter would not find its base, if its kind does not fit the strategy or the sequences, or if the model
    names neither base nor model_type."""
    from pipelines.catalog import find_location
    from pipelines.dataset.examples.table import load_builder
    from pipelines.dataset.hub import base_identity, pin_base
    from pipelines.dataset.mixing.count import plan_on_table
    from pipelines.pin import fingerprint
    from pipelines.storage import Folder

    settings.optimization.require_installed()
    settings.model.adapter.require_strategy(settings.strategy)
    BatchPlan(
        global_batch=settings.global_batch, micro_batch=settings.micro_batch, num_replicas=settings.num_ranks
    )
    model = settings.model
    if model.base is not None:
        model = replace(model, base=pin_base(model.base))
    _require_findable_base(model)
    _require_prefix_fits(settings, sequences.facts)
    facts, files = sequences.facts, find_location(sequences.path)  # ranks read files, without Spark
    require_supported(settings, facts["task"])
    if settings.max_logit_tokens is not None and facts["task"] not in NEXT_TOKEN_TASKS:
        raise ValueError(NO_NEXT_TOKENS)
    _require_runnable(settings, facts["task"])
    teacher = _choose_teacher(settings, facts["task"])
    if settings.sequence_losses:
        require_task(facts["task"], has_teacher=teacher is not None)
    training = Training(
        fingerprint="",
        folder="",
        data=_pick(
            Data, settings, sequences=files, table_id=sequences.table_id, version=sequences.version, fold=None
        ),
        spec=ModelSpec(
            task=facts["task"],
            labels=tuple(facts["labels"]),
            max_tokens=facts["sequence_length"],
            base=model.start(),
            tokenizer=facts["tokenizer"],
            end_token_id=facts.get("end_token_id"),
            mask_token_id=facts.get("mask_token_id"),
            vocab_size=facts.get("vocab_size"),
            mask_fraction=settings.mask_fraction if "mask_token_id" in facts else None,
            preference=settings.preference if facts["task"] == PREFERENCE else None,
            chat=_read_chat(sequences, settings.tokenizers),
            retrieval=settings.retrieval if facts["task"] == "retrieval" else None,
            label_threshold=settings.label_threshold if load_builder(facts["task"]).has_label_sets else None,
        ),
        architecture=model,
        optimization=settings.optimization,
        precision=settings.precision,
        schedule=_pick(Schedule, settings),
        cadence=_pick(Cadence, settings),
        execution=_pick(
            Execution,
            settings,
            collectives=choose_collectives(settings.strategy, settings.collectives),
            local_sgd=settings.local_sgd if settings.strategy == "local_sgd" else None,
        ),
        mixture=plan_on_table(
            settings.mixture,
            sequences,
            files,
            num_epochs=settings.num_epochs,
            global_batch=settings.global_batch,
        ),
        curriculum=settings.curriculum if settings.curriculum.column else None,
        teacher=teacher,
    )
    bases = [base_identity(model.base), *([base_identity(teacher.base)] if teacher else [])]
    made_from = fingerprint("finetune", REVISION, training.identity(), sequences.identity(), *bases)
    return replace(training, fingerprint=made_from, folder=(Folder(settings.folder) / made_from).path)


def _require_runnable(settings: Any, task: str) -> None:
    """Raise ValueError if the ranks could not do what the settings ask of them."""
    if settings.timeline and (settings.collectives != "horovod" or settings.num_ranks == 1):
        raise ValueError(
            "finetune.timeline records what Horovod does, and finetune.collectives is "
            f"{settings.collectives} with num_ranks {settings.num_ranks}; set timeline to false, or take "
            "collectives horovod and several ranks"
        )
    if settings.compile and task == "retrieval":
        raise ValueError(
            f"finetune.compile: task {task} computes its outputs twice with the same random numbers, which "
            "compiled layers do not promise; set it to false"
        )


def _choose_teacher(settings: Any, task: str) -> Teacher | None:
    """The teacher under a name that stays; None = there is none. Raises ValueError if it can't be one."""
    from pipelines.dataset.hub import pin_base

    if settings.teacher.base is None:
        return None
    require_teachable(task, settings.max_logit_tokens)
    return replace(settings.teacher, base=pin_base(settings.teacher.base))


def _require_prefix_fits(settings: Any, facts: Mapping[str, Any]) -> None:
    """Raise ValueError if a prefix would be lost. With earlier sequences, which lack these counts, a rank
    finds it at its first packed batch."""
    from pipelines.dataset.examples.table import load_builder

    name = "finetune.model.adapter.kind prefix"
    if settings.model.adapter.kind != "prefix":
        return
    if settings.activation_checkpointing:
        raise ValueError(
            f"{name} does not work with finetune.activation_checkpointing: transformers drops keys and "
            "values from before the text while it recomputes; set it to false and finetune.micro_batch lower"
        )
    can_be_packed = len(load_builder(facts["task"]).packing_methods) > 1
    counts = facts["splits"].values() if can_be_packed else ()
    if any(each.get("units", 0) + each.get("continued", 0) > each["sequences"] for each in counts):
        raise ValueError(
            f"{name} takes one document per sequence, but these hold several; run the dataset stage with "
            "dataset.packing.method=one_per_document, or take another kind"
        )


def _require_findable_base(model: Architecture) -> None:
    """Raise ValueError if who uses the model will not find the base of its adapter."""
    is_alone = model.adapter.kind is not None and not model.adapter.merge
    if is_alone and model.base is not None and is_artefact(model.base):
        remedy = "set finetune.model.adapter.merge=true, or " if model.adapter.kind in MERGEABLE else ""
        raise ValueError(
            f"finetune.model.adapter.merge is false, and the base {model.base} is in MLflow, which workers "
            f"that score do not reach; {remedy}download the base to shared storage and name the folder"
        )


def _read_chat(sequences: "Pin", tokenizers: str) -> "ChatFormat | None":
    """How the conversations of the sequences are written; None = they are none."""
    from pipelines.dataset.chat_template import read_chat_format
    from pipelines.dataset.examples.table import load_builder

    name, task = sequences.facts.get("chat"), sequences.facts["task"]
    if name is None and load_builder(task).is_chat:
        raise ValueError(
            f"sequences at {sequences.path} do not say how their conversations were written, which a model "
            f"of task {task} needs; run the dataset stage again"
        )
    return None if name is None else read_chat_format(tokenizers, name)


def _pick(kind: type[_Value], source: Any, **others: Any) -> _Value:
    """A value type filled with the attributes of `source` that have the names of its fields, and with
    `others`.
    """
    names = {field.name for field in fields(kind)} - others.keys()  # type: ignore[arg-type]
    return kind(**{name: getattr(source, name) for name in names}, **others)
