"""Data parallel over Horovod: every rank holds the whole model, gradients are averaged while backward still runs."""

from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.finetune.parallel import collectives

NUM_GROUPS = 4
"""Gradients averaged together. Left alone, Horovod fuses what happens to be ready, and from three ranks on the order of additions
and so the last bit changes from run to run; fixed groups give equal weights, and took 0.8 of the time of a step on two cores."""


def nccl_built() -> bool:
    """Whether this Horovod can average on GPUs."""
    return bool(hvd.nccl_built())


class DataParallel:
    """Needs `hvd.init()` done (finetune/launch.py)."""

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda" and not nccl_built():
            raise RuntimeError(
                "GPU ranks need a Horovod built with NCCL; install CUDA's nvcc and run make setup again, "
                "or set finetune.num_ranks=1"
            )
        self.rank, self.world_size, self.device = hvd.rank(), hvd.size(), device

    def wrap(self, model: nn.Module, optimizer: Optimizer, *, accumulation: int) -> Optimizer:
        # Horovod sums the passes before it averages over ranks, which is what the loop's normalised losses need.
        wrapped = hvd.DistributedOptimizer(
            optimizer,
            named_parameters=model.named_parameters(),
            op=hvd.Average,
            backward_passes_per_step=accumulation,
            groups=NUM_GROUPS,
        )
        # It is a new optimizer over the same parameters: without this, a resumed training would start with empty moments.
        wrapped.load_state_dict(optimizer.state_dict())
        collectives.broadcast_state(model, wrapped)
        return wrapped

    def step(self, optimizer: Optimizer, *, max_norm: float) -> float:
        wrapped: Any = optimizer  # its class is made by Horovod when it wraps
        wrapped.synchronize()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
        with wrapped.skip_synchronize():
            optimizer.step()
        return norm

    def sum(self, value: Tensor, *, name: str) -> Tensor:
        return collectives.sum_over_ranks(value, name=name)
