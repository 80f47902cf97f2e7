"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): a layer keeps its input alone, and backward
computes the rest of its activations again, with the random numbers of the first time.

Memory: one layer's activations and one tensor (B, T, H) a layer, instead of all layers'. Time: one more
forward pass, a third of a step.
"""

from torch import nn
from transformers import PreTrainedModel

from pipelines.finetune.models.layers import list_layers
from pipelines.finetune.models.prefix import has_prefix


def recompute_activations(module: nn.Module) -> None:
    """Let the backbone of `module` recompute its activations in training. Raises ValueError if its
    architecture can't.
    """
    backbone = next(each for each in module.modules() if isinstance(each, PreTrainedModel))
    if has_prefix(module):
        raise ValueError(
            "finetune.activation_checkpointing drops the keys and values of a prefix; set it to false and "
            "finetune.micro_batch lower"
        )
    if not (backbone.supports_gradient_checkpointing and list_layers(module)):
        raise ValueError(
            f"finetune.activation_checkpointing: model type {backbone.config.model_type} can't recompute its "
            "activations in transformers; set it to false and finetune.micro_batch lower"
        )
    # transformers renamed it in 5.x, before 5.23.
    enable = getattr(backbone, "activation_checkpointing_enable", backbone.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def recomputes_activations(module: nn.Module) -> bool:
    """Whether `recompute_activations` was called."""
    return any(getattr(each, "gradient_checkpointing", False) for each in module.modules())
