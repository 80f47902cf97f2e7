"""Which parameters are trained: not those that the configuration freezes, nor those that no loss can reach.

A parameter without a gradient costs a sharded or averaged training more than nothing: Horovod averages the
group that it belongs to one tensor after the other, and a sharded optimizer keeps state for it.
"""

from typing import Any

import torch
from torch import Tensor, nn

PROBE_SHAPE = (2, 8)
"""Rows and tokens of the forward pass whose graph is searched."""
ROUTED = "expert"
"""In the names of parameters that a router chooses by content: a short probe need not reach all of them."""


def freeze_named(module: nn.Module, parts: tuple[str, ...]) -> None:
    """Freeze the parameters whose names contain one of `parts`. Raises ValueError for a part that none
    contains.
    """
    for part in parts:
        chosen = [parameter for name, parameter in module.named_parameters() if part in name]
        if not chosen:
            first = ", ".join(name for name, _ in list(module.named_parameters())[:5])
            raise ValueError(
                f"finetune.model.frozen: no parameter's name contains {part!r}; the first ones are {first}"
            )
        for parameter in chosen:
            parameter.requires_grad_(False)


def freeze_unused(module: nn.Module) -> list[str]:
    """Freeze the parameters that the logits do not depend on, such as poolers; their names.

    One forward pass of PROBE_SHAPE tokens, and no backward: the graph behind the logits is searched for the
    parameters it ends in, which takes no memory for gradients.
    """
    logits = _probe_logits(module)
    reached = _find_leaves(logits)
    unused = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and id(parameter) not in reached and ROUTED not in name
    ]
    for name in unused:
        module.get_parameter(name).requires_grad_(False)
    return unused


def _probe_logits(module: nn.Module) -> Tensor:
    config: Any = module.config  # of transformers; every module of this package has its backbone's
    # From 3 on: the ids below are often padding, which some architectures treat apart.
    ids_BT = (torch.arange(PROBE_SHAPE[0] * PROBE_SHAPE[1]).reshape(PROBE_SHAPE) + 3) % config.vocab_size
    was_training = module.training
    module.eval()  # dropout would draw random numbers
    try:
        with torch.enable_grad():
            logits: Tensor = module(input_ids_BT=ids_BT, attention_mask_BT=torch.ones_like(ids_BT))
    finally:
        module.train(was_training)
    return logits


def _find_leaves(output: Tensor) -> set[int]:
    """Ids of the tensors with gradients that `output` was computed from."""
    leaves: set[int] = set()
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # AccumulateGrad, the end of the graph
            leaves.add(id(node.variable))
        waiting += [function for function, _ in node.next_functions]
    return leaves
