"""Collectives over Horovod, which must be initialised (launch/join_horovod.py).

Horovod fuses operations that are ready at the same time, and from three ranks on the order of additions, and
with it the last bit, would change from run to run. The launcher therefore switches fusion off; strategies
send large buffers instead.
"""

import horovod.torch as hvd
import torch
from torch import Tensor

from pipelines.finetune.parallel.collectives.interface import Pending, Started, own_slice, summable


def has_nccl() -> bool:
    """Whether this Horovod was built to work on GPUs."""
    return bool(hvd.nccl_built())


class HorovodCollectives:
    """All ranks of Horovod's world."""

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda" and not has_nccl():
            raise RuntimeError(
                "GPU ranks need a Horovod built with NCCL; install CUDA's nvcc and run make setup again, "
                "or set finetune.collectives=torch or finetune.num_ranks=1"
            )
        self.rank, self.world_size = hvd.rank(), hvd.size()

    def sum(self, tensor: Tensor, *, name: str) -> Pending:
        wire = summable(tensor)
        handle = hvd.allreduce_async_(wire, op=hvd.Sum, name=name)
        return Started(
            lambda: hvd.synchronize(handle), lambda: tensor.copy_(wire) if wire is not tensor else None
        )

    def reduce_scatter(self, tensor: Tensor, *, name: str) -> Pending:
        handle = hvd.reducescatter_async(summable(tensor), op=hvd.Sum, name=name)
        own = own_slice(tensor, self)
        return Started(lambda: own.copy_(hvd.synchronize(handle)))

    def all_gather(self, tensor: Tensor, *, name: str) -> Pending:
        wire = tensor.view(torch.uint8)
        handle = hvd.allgather_async(own_slice(wire, self).clone(), name=name)
        return Started(lambda: wire.copy_(hvd.synchronize(handle)))

    def broadcast(self, tensor: Tensor, *, name: str) -> Pending:
        handle = hvd.broadcast_async_(tensor.view(torch.uint8), root_rank=0, name=name)
        return Started(lambda: hvd.synchronize(handle))
