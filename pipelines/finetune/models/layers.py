"""The layers of a transformers model: the equal blocks one after the other, which hold most of its weights
and make most of its activations.
"""

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def list_layers(module: nn.Module) -> list[nn.Module]:
    """The layers of the backbone of `module`, outermost ones only, in order; [] for an architecture that
    shares one layer between places (ALBERT) or does not name its layers.

    transformers derives the blocks whose activations it can recompute from one class.
    """
    backbone = next(each for each in module.modules() if isinstance(each, PreTrainedModel))
    layers: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for each in backbone.modules():  # a block comes before what it holds
        if isinstance(each, GradientCheckpointingLayer) and each not in inside:
            layers.append(each)
            inside.update(each.modules())
    return layers
