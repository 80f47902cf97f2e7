"""A frozen teacher beside the model that learns from it.

The teacher is no submodule: it is in no state_dict, so in no checkpoint, broadcast or export, and no
optimizer sees it. Every rank loads it, also to continue. Shapes: B sequences, T tokens, N targets, V
vocabulary, C classes.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from pipelines.dataset.hub import resolve_base
from pipelines.dataset.rows import NO_LABEL
from pipelines.dataset.tokenizer import load_tokenizer
from pipelines.finetune.models.architecture import NEXT_TOKEN_TASKS, SPEC_FILE, Architecture, ModelSpec
from pipelines.finetune.models.build import build_model, choose_attention, require_positions
from pipelines.finetune.models.decoder import Decoder
from pipelines.finetune.models.folder import load_model
from pipelines.finetune.models.lora import find_backbone, hash_weights


def load_teacher(place: str, name: str, spec: ModelSpec, tokenizer: Tokenizer) -> nn.Module:
    """The teacher in evaluation mode, on the CPU. `place`: where its files are, `name`: what it is called;
    `spec` and `tokenizer` are the student's.

    Raises ValueError if its classes or its vocabulary are not the student's, or if it can't do the task.
    """
    base = resolve_base(place)
    if base.is_folder and (Path(base.place) / SPEC_FILE).is_file():
        loaded = load_model(Path(base.place))
        _require_same_task(name, loaded.spec, spec)
        _require_same_vocabulary(name, loaded.tokenizer, tokenizer)
        config: Any = loaded.module.config
        require_positions(config, spec.max_tokens)
        choose_attention(find_backbone(loaded.module)[1])
        if isinstance(loaded.module, Decoder):
            loaded.module.probe_separation()
        return _freeze(loaded.module)
    if spec.task not in NEXT_TOKEN_TASKS:
        raise ValueError(
            f"finetune.teacher.base: {name} is no model folder of Distributary, and only its {SPEC_FILE} "
            "says which classes a teacher knows; train it with the finetune stage first"
        )
    _require_same_vocabulary(name, load_tokenizer(place).tokenizer, tokenizer)
    size = tokenizer.get_vocab_size()
    return _freeze(build_model(Architecture(base=place), spec, vocab_size=size, seed=0))


def _freeze(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def _require_same_task(name: str, teacher: ModelSpec, student: ModelSpec) -> None:
    alike = teacher.task == student.task or {teacher.task, student.task} <= {*NEXT_TOKEN_TASKS}
    if not alike:
        raise ValueError(
            f"finetune.teacher.base: {name} is a model of task {teacher.task}, but the sequences are of task "
            f"{student.task}; name a teacher of that task"
        )
    if student.task not in NEXT_TOKEN_TASKS and teacher.labels != student.labels:
        theirs, own = (
            sorted({*teacher.labels} - {*student.labels}),
            sorted({*student.labels} - {*teacher.labels}),
        )
        raise ValueError(
            f"finetune.teacher.base: {name} knows {len(teacher.labels)} classes and the sequences have "
            f"{len(student.labels)}; only the teacher has {theirs[:5]}, only the sequences {own[:5]}; "
            "train the teacher on sequences with these classes"
        )


def _require_same_vocabulary(name: str, teacher: Tokenizer, student: Tokenizer) -> None:
    theirs, own = teacher.get_vocab(), student.get_vocab()
    if theirs == own:
        return
    token = min(token for token in theirs.keys() | own.keys() if theirs.get(token) != own.get(token))
    raise ValueError(
        f"finetune.teacher.base: the tokenizer of {name} has {len(theirs):,} tokens and that of the sequences"
        f" {len(own):,}, and token {token!r} has number {theirs.get(token)} there and {own.get(token)} here; "
        f"build the sequences with dataset.tokenizer.base={name}"
    )


def attach_teacher(module: nn.Module, teacher: nn.Module, vocab_size: int) -> None:
    """From now on, in training mode, the outputs of `module` for a batch are its own logits of the targets
    and the teacher's: (2, N, V), or (2, B, C) for a classifier. In evaluation mode they stay as they are.

    V is `vocab_size`: models of one family differ in how far they pad the vocabulary.
    """
    module.__dict__["_teacher"] = (teacher,)  # in a tuple: torch registers every module that is an attribute

    def pair(own: nn.Module, arguments: Any, inputs: dict[str, Tensor], outputs: Tensor) -> Tensor | None:
        if not own.training:
            return None
        first = next(teacher.parameters())
        # As the outputs, not as the weights: those of a sharded model may be gathered in 16 bits.
        if (first.device, first.dtype) != (outputs.device, outputs.dtype):
            teacher.to(outputs.device, outputs.dtype)
        with torch.no_grad():
            theirs: Tensor = teacher(**inputs)
        targets_BT = inputs.get("targets_BT")
        if targets_BT is None:
            return torch.stack([outputs, theirs.to(outputs.dtype)])
        counts_BT = targets_BT[:, 1:] != NO_LABEL
        both = [each[:, :-1, :vocab_size][counts_BT].to(outputs.dtype) for each in (outputs, theirs)]
        return torch.stack(both)

    module.register_forward_hook(pair, with_kwargs=True)


def digest_teacher(module: nn.Module) -> str | None:
    """sha256 of names and weights of the teacher, as they were loaded; None = there is none. O(weights)."""
    teachers: tuple[nn.Module, ...] = module.__dict__.get("_teacher", ())
    return hash_weights(teachers[0]) if teachers else None
