"""The collectives of a rank whose peers do not exist: for what one rank does, and the memory it takes."""

import torch
from torch import Tensor

from pipelines.finetune.parallel.collectives.interface import Started, own_slice, summable


class AbsentPeers:
    """Rank 0 of `world_size`. The others have as many rows as it has, and the same ones; nothing is added up.
    Buffers are those of Horovod's operations."""

    def __init__(self, world_size: int) -> None:
        self.rank, self.world_size = 0, world_size

    def sum(self, tensor: Tensor, *, name: str) -> Started:
        wire = summable(tensor)
        if tensor.dtype == torch.int64:  # numbers by rank, of which each rank fills in its own
            tensor.fill_(int(tensor[self.rank]))
        return Started(_nothing, lambda: tensor.copy_(wire) if wire is not tensor else None)

    def reduce_scatter(self, tensor: Tensor, *, name: str) -> Started:
        own = own_slice(tensor, self)
        result = torch.empty_like(own_slice(summable(tensor), self))
        return Started(_nothing, lambda: own.copy_(result))

    def all_gather(self, tensor: Tensor, *, name: str) -> Started:
        sent = own_slice(tensor, self).clone()
        received = sent.repeat(self.world_size)
        return Started(lambda: sent, lambda: tensor.copy_(received))

    def broadcast(self, tensor: Tensor, *, name: str) -> Started:
        return Started(_nothing)


def _nothing() -> None:
    """There is no one to wait for."""
