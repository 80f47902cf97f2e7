"""The four operations between ranks that strategies are built from. Every backend gives the same results to
the same calls.

All tensors are flat (1-dimensional) and contiguous, and every operation works in place, so that strategies
decide where memory is spent. Every call has a name: Horovod matches calls by name, and torch.distributed
matches them by order, so ranks must make the same calls under the same names in the same order.

16-bit floats are summed as float32 and rounded once: Horovod has no bfloat16, and float16 sums overflow.
Copies (broadcast, all_gather) move bytes, so they are exact for every type.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from pipelines.finetune.times.clock import part


class Pending(Protocol):
    """An operation that has been started."""

    def wait(self) -> None:
        """Return when the tensor holds the result. Raises RuntimeError if another rank is gone."""
        ...


class Collectives(Protocol):
    """Operations over one group of ranks. A strategy with several groups (tensor x data) holds one instance
    per group.
    """

    rank: int
    world_size: int

    def sum(self, tensor: Tensor, *, name: str) -> Pending:
        """Replace `tensor` by its sum over ranks, on every rank. The order of additions is fixed by its
        length alone.
        """
        ...

    def reduce_scatter(self, tensor: Tensor, *, name: str) -> Pending:
        """Replace this rank's slice of `tensor` by its sum over ranks; the other slices are undefined
        afterwards.

        `tensor` is (world_size * n,); rank r owns elements [r * n, (r + 1) * n).
        """
        ...

    def all_gather(self, tensor: Tensor, *, name: str) -> Pending:
        """Fill `tensor`, (world_size * n,), with the slice that each rank owns in it."""
        ...

    def broadcast(self, tensor: Tensor, *, name: str) -> Pending:
        """Replace `tensor` by rank 0's."""
        ...


class Started:
    """A pending operation: waits with `wait_for`, then runs `finish`, for example to copy the result into
    place.
    """

    def __init__(self, wait_for: Callable[[], object], finish: Callable[[], object] = lambda: None) -> None:
        self._wait_for, self._finish = wait_for, finish

    def wait(self) -> None:
        with part("communication"):
            self._wait_for()
        self._finish()


def own_slice(tensor: Tensor, collectives: Collectives) -> Tensor:
    """The (n,) elements of a (world_size * n,) tensor that this rank owns; a view."""
    size = tensor.numel() // collectives.world_size
    return tensor[collectives.rank * size : (collectives.rank + 1) * size]


def summable(tensor: Tensor) -> Tensor:
    """`tensor` in a type that can be summed without overflow: float32 instead of 16-bit floats."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def broadcast_tensors(collectives: Collectives, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Rank 0's values in all named tensors, which have any shape; names and shapes must be equal on all
    ranks.
    """
    pending: list[tuple[Pending, Tensor, Tensor]] = []
    for name, tensor in tensors:
        if not tensor.numel():
            continue
        flat = tensor.detach().reshape(-1)  # a view where the tensor is contiguous
        pending.append((collectives.broadcast(flat, name=f"state.{name}"), tensor, flat))
    for operation, tensor, flat in pending:
        operation.wait()
        if not tensor.is_contiguous():
            tensor.detach().copy_(flat.view_as(tensor))


def require_equal(collectives: Collectives, number: int, what: str) -> None:
    """Raise RuntimeError unless `number` is the same on all ranks: later calls would wait forever or mix up
    tensors.
    """
    values = torch.zeros(collectives.world_size, dtype=torch.int64)
    values[collectives.rank] = number
    collectives.sum(values, name=f"equal.{what}").wait()
    if (values != values[0]).any():
        raise RuntimeError(
            f"{what} must be equal on all ranks, got {values.tolist()} by rank; use one version of the code"
        )
