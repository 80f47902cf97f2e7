"""Collectives over torch.distributed, whose process group must be initialised (launch/join_torch.py): gloo on
CPU, NCCL on GPU.

Names are not sent: torch.distributed matches calls by their order.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.finetune.parallel.collectives.interface import Pending, Started, own_slice, summable


def has_nccl() -> bool:
    """Whether this torch can work on GPUs of several ranks."""
    return dist.is_nccl_available()


class TorchCollectives:
    """All ranks of torch's default process group."""

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda" and not has_nccl():
            raise RuntimeError(
                "GPU ranks need a torch built with NCCL; install torch for CUDA, or set finetune.num_ranks=1"
            )
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def sum(self, tensor: Tensor, *, name: str) -> Pending:
        wire = summable(tensor)
        work = dist.all_reduce(wire, async_op=True)
        return Started(work.wait, lambda: tensor.copy_(wire) if wire is not tensor else None)

    def reduce_scatter(self, tensor: Tensor, *, name: str) -> Pending:
        wire = summable(tensor)
        result = torch.empty_like(own_slice(wire, self))
        work = dist.reduce_scatter_single(result, wire, async_op=True)
        return Started(work.wait, lambda: own_slice(tensor, self).copy_(result))

    def all_gather(self, tensor: Tensor, *, name: str) -> Pending:
        wire = tensor.view(torch.uint8)
        work = dist.all_gather_single(wire, own_slice(wire, self).clone(), async_op=True)
        return Started(work.wait)

    def broadcast(self, tensor: Tensor, *, name: str) -> Pending:
        work = dist.broadcast(tensor.view(torch.uint8), src=0, async_op=True)
        return Started(work.wait)
