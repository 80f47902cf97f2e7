"""What fully sharded training changes in the memory of a rank. FSDP can't run on tensors without values whose
peers do not exist, so the estimate is that of data parallel, cut by the formula of docs/parallel.md.
"""

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from pipelines.finetune.memory.question import MemoryEstimate
from pipelines.finetune.models.layers import list_layers
from pipelines.finetune.precision import TYPES, read_precision


def cut_estimate(whole: MemoryEstimate, model: nn.Module, num_ranks: int) -> MemoryEstimate:
    """Of one of `num_ranks`: 1/N of what lasts; beside the activations what is whole for a while: the unit
    outside of the layers and two layers, and twice the gradients of a unit, which are copied to be sent.
    """
    layers = [{*layer.parameters()} for layer in list_layers(model)]
    outer = {*model.parameters()} - {each for layer in layers for each in layer}
    type_of_16_bits = TYPES.get(read_precision(model))
    share = 1.0 if type_of_16_bits is None else type_of_16_bits.itemsize / 4  # in which weights are gathered
    gathered = share * (_count(outer) + 2 * max(map(_count, layers), default=0))
    trained = [{each for each in unit if each.requires_grad} for unit in (outer, *layers)]
    passing = round(gathered + 2 * max(map(_count, trained)))
    lasting = whole.weights + whole.gradients + whole.optimizer
    saved = lasting - lasting // num_ranks
    return replace(
        whole,
        weights=whole.weights // num_ranks,
        gradients=whole.gradients // num_ranks,
        optimizer=whole.optimizer // num_ranks,
        activations=whole.activations + passing,
        # The whole model is built in host memory first.
        resident=max(whole.resident - saved + passing, whole.weights + passing),
    )


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(each.numel() * each.element_size() for each in parameters)
