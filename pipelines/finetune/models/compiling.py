"""torch.compile of the layers of a backbone.

Each layer is compiled for itself, and not the model. Equal layers share their code, so it takes seconds where
a whole model takes minutes. What is around the layers stays as it is: it decides by values, such as whether a
row is packed and which tokens are targets, where a graph would end. Names of weights, hooks of gradients and
activation checkpointing do not change.

Nothing falls back in silence: a layer of which a part can't be compiled is an error, and so is one that needs
more than MOST_VERSIONS versions of its code. Sizes are symbols, so batches of other lengths need no new code.
"""

import os
import shutil
from typing import Any

import torch
from torch import nn

from pipelines.finetune.models.layers import list_layers
from pipelines.finetune.models.lora import find_backbone
from pipelines.finetune.training import Execution
from pipelines.machine import cache_folder

MOST_VERSIONS = 32
"""Of the code of a layer: kinds of layers, training and evaluation, a single row or token."""


def require_compiler(execution: Execution, device: torch.device) -> None:
    """Raise ImportError if layers shall be compiled and this machine can't do it for `device`: a small
    function is compiled."""
    if not execution.compile:
        return
    import torch._inductor.config as inductor

    _configure()
    remedy = "install it, or set finetune.compile=false"
    compilers = [name for name in inductor.cpp.cxx if name]
    if device.type == "cpu" and not any(shutil.which(name) for name in compilers):
        raise ImportError(
            "finetune.compile=true needs a C++ compiler on every machine with ranks, and "
            f"{' or '.join(compilers)} is not here; {remedy} (CXX in the environment names another one)"
        )
    try:
        torch.compile(_probe, fullgraph=True)(torch.ones(2, device=device))
    except Exception as error:  # of compilers, linkers and Triton: each has its own
        raise ImportError(
            f"finetune.compile=true: torch can't compile for {device.type} on this machine, which needs a "
            f"C++ compiler and the headers of Python, on a GPU Triton too; {remedy}: {error}"
        ) from error


def compile_layers(module: nn.Module) -> int:
    """Compile the layers of the backbone of `module` when they first run; how many they are. Raises
    ValueError if its architecture has no layers that transformers marks."""
    _configure()
    _, backbone = find_backbone(module)
    layers = list_layers(backbone)
    if not layers:
        raise ValueError(
            f"finetune.compile: model type {backbone.config.model_type} has no layers in transformers that "
            "could be compiled one by one; set it to false"
        )
    for layer in layers:
        layer.compile(fullgraph=True, dynamic=True)
    return len(layers)


def leave_uncompiled(module: nn.Module) -> None:
    """From now on `module` runs as it is: what comes after a training writes text one token at a time, for
    which every layer would be compiled again."""
    layers: list[Any] = list_layers(module)
    for layer in layers:
        layer._compiled_call_impl = None


def _probe(values: torch.Tensor) -> torch.Tensor:
    return values.sin() + 1


def _configure() -> None:
    """Compile in this process: Spark ends Python workers without waiting for a pool of theirs."""
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    inductor.compile_threads = 1
    dynamo.recompile_limit = max(dynamo.recompile_limit, MOST_VERSIONS)
