"""The model that a rank trains, as the settings of its training ask for it."""

import torch
from tokenizers import Tokenizer
from torch import nn

from pipelines.finetune.base_files import open_base, open_teacher
from pipelines.finetune.models.activations import recompute_activations
from pipelines.finetune.models.build import build_model, reads_base
from pipelines.finetune.models.compiling import compile_layers
from pipelines.finetune.models.decoder import limit_logits
from pipelines.finetune.models.teacher import attach_teacher, load_teacher
from pipelines.finetune.precision import use_precision
from pipelines.finetune.training import Training


def build_starting_model(
    training: Training, *, tokenizer: Tokenizer, device: torch.device, load_weights: bool
) -> nn.Module:
    """The model at step 0, on the CPU, which will run on `device`, with its teacher. `load_weights`: see
    `build_model`."""
    vocab_size = tokenizer.get_vocab_size()
    model = build_without_teacher(training, vocab_size=vocab_size, device=device, load_weights=load_weights)
    if training.teacher is not None:
        with open_teacher(training) as place:
            teacher = load_teacher(place, str(training.teacher.base), training.spec, tokenizer)
        use_precision(teacher, training.precision, device)
        attach_teacher(model, teacher, vocab_size)
    if training.execution.compile:
        compile_layers(model)
    return model


def build_without_teacher(
    training: Training,
    *,
    vocab_size: int,
    device: torch.device,
    load_weights: bool,
    shapes_only: bool = False,
) -> nn.Module:
    """The same, alone. For the rest see `build_model`."""
    spec, execution = training.spec, training.execution
    needs_weights = not shapes_only and (load_weights or reads_base(training.architecture, spec))
    with open_base(training, with_weights=needs_weights) as architecture:
        model = build_model(
            architecture,
            spec,
            vocab_size=vocab_size,
            seed=training.schedule.seed,
            load_weights=load_weights,
            base_name=None if training.base_files is None else training.architecture.base,
            shapes_only=shapes_only,
        )
    if execution.activation_checkpointing:
        recompute_activations(model)
    if execution.max_logit_tokens is not None:
        limit_logits(model, execution.max_logit_tokens)
    use_precision(model, training.precision, device)
    return model
