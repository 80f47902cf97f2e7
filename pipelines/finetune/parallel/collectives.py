"""Horovod's collectives as this project uses them: every one named, state synchronised by ourselves.

Horovod's own `broadcast_optimizer_state` runs a real step on a fresh AdamW, and unnamed object broadcasts hang when ranks differ
(measured; docs/decisions.md). Here everything is a flat broadcast of tensors whose names and shapes are equal by construction.
"""

from collections.abc import Iterable

import horovod.torch as hvd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def sum_over_ranks(value: Tensor, *, name: str) -> Tensor:
    return hvd.allreduce(value, op=hvd.Sum, name=name)


def broadcast_state(model: nn.Module, optimizer: Optimizer) -> None:
    """Rank 0's parameters, buffers and optimizer tensors on every rank; structures must already agree."""
    named = [(f"model.{name}", tensor) for name, tensor in model.state_dict().items()]
    named += [(f"optimizer.{name}", tensor) for name, tensor in optimizer_tensors(optimizer)]
    _require_equal(len(named), "tensors of model and optimizer")
    handles = [hvd.broadcast_async_(tensor, root_rank=0, name=f"start.{name}") for name, tensor in named]
    for handle in handles:
        hvd.synchronize(handle)


def optimizer_tensors(optimizer: Optimizer) -> Iterable[tuple[str, Tensor]]:
    """(name, tensor) of the optimizer's state, in the order of its parameter groups."""
    for number, state in sorted(optimizer.state_dict()["state"].items()):
        for key, value in sorted(state.items()):
            if isinstance(value, Tensor):
                yield f"{number}.{key}", value


def _require_equal(number: int, what: str) -> None:
    mine = torch.tensor([number, -number], dtype=torch.int64)
    largest = hvd.allreduce(mine, op=hvd.Max, name=f"equal.{what}")
    if largest[0] != -largest[1]:
        raise RuntimeError(
            f"ranks differ in their number of {what}: {-largest[1]} to {largest[0]}; "
            "was a checkpoint seen by some only?"
        )
