"""An error for a rank that runs out of memory: what it was doing, with which batch, and which settings help.

Only what raises an error is seen. A process that the kernel kills for want of memory says nothing; the
launcher reports its death.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipelines.finetune.models.activations import recomputes_activations
from pipelines.finetune.models.decoder import could_limit_logits
from pipelines.finetune.precision import read_precision
from pipelines.finetune.tasks.task import Batch

_ON_CPU = re.compile(r"can't allocate memory|not enough memory: you tried to allocate", re.IGNORECASE)
"""In the RuntimeError of torch's allocator for CPUs; that for GPUs has a type."""


@contextmanager
def explain_batch(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Raise MemoryError with the shape of the batch and the remedies if the block runs out of memory. What is
    set already for `model` is no remedy."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        ids_BT = batch.inputs["input_ids_BT"]
        num_rows, num_tokens = ids_BT.shape
        num_sequences = batch.num_sequences or num_rows
        texts = "" if num_sequences == num_rows else f", {num_rows} texts in all,"
        raise MemoryError(
            f"{ids_BT.device} ran out of memory with a micro-batch of {num_sequences} sequences{texts} of up "
            f"to {num_tokens} tokens ({_shorten(error)}); {_advise(model, num_sequences)}"
        ) from error


def _advise(model: nn.Module, num_sequences: int) -> str:
    remedies = [f"finetune.micro_batch={num_sequences // 2}"] if num_sequences > 1 else []
    # An evaluation keeps no activations for a backward pass.
    if not recomputes_activations(model) and torch.is_grad_enabled():
        remedies.append("finetune.activation_checkpointing=true")
    if could_limit_logits(model):
        remedies.append("finetune.max_logit_tokens=1024")
    # Last, because it alone begins another training.
    if read_precision(model) == "float32":
        remedies.append("finetune.precision=bfloat16")
        after = "Except after a change of precision, the training"
    else:
        after = "The training"
    if not remedies:
        return "all settings that need less are set: take shorter sequences, a smaller model or more memory"
    choice = " or ".join(filter(None, [", ".join(remedies[:-1]), remedies[-1]]))
    return f"set {choice}. {after} continues from its newest checkpoint"


@contextmanager
def explain_comparison(outputs: torch.Tensor) -> Iterator[None]:
    """Raise MemoryError with the remedies if the loss over all rows of a global batch runs out of memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise MemoryError(
            f"{outputs.device} ran out of memory for the loss over all texts of a global batch, of which "
            f"{len(outputs)} are of this rank ({_shorten(error)}); lower finetune.global_batch. A smaller "
            "micro-batch does not help here"
        ) from error


@contextmanager
def explain_update() -> Iterator[None]:
    """Raise MemoryError with the remedies if an update of the weights runs out of memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise MemoryError(
            f"out of memory for the state of the optimizer ({_shorten(error)}); set "
            "finetune.strategy=sharded_optimizer with more ranks, finetune.optimization.optimizer=adafactor, "
            "or train fewer parameters (finetune.model.frozen)"
        ) from error


def lacks_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _ON_CPU.search(str(error)) is not None


def _shorten(error: BaseException) -> str:
    """The first sentences of torch's text: what it tried to allocate, and what there is."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
