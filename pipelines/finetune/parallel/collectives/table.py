"""The backends by name. Each is imported only when it is used: Horovod need not be installed for the torch
backend.
"""

from typing import Literal

import torch

from pipelines.finetune.parallel.collectives.interface import Collectives

Backend = Literal["horovod", "torch"]


def _horovod(device: torch.device) -> Collectives:
    from pipelines.finetune.parallel.collectives.horovod import HorovodCollectives

    return HorovodCollectives(device)


def _torch(device: torch.device) -> Collectives:
    from pipelines.finetune.parallel.collectives.torch import TorchCollectives

    return TorchCollectives(device)


def has_nccl(backend: Backend) -> bool:
    """Whether ranks of this backend can exchange tensors of GPUs."""
    if backend == "horovod":
        from pipelines.finetune.parallel.collectives.horovod import has_nccl as found
    else:
        from pipelines.finetune.parallel.collectives.torch import has_nccl as found
    return found()


COLLECTIVES = {"horovod": _horovod, "torch": _torch}
