"""Computing in 16 bits: torch's autocast around the forward pass. Weights, gradients, sums between ranks and
the state of the optimizer stay float32, and so do the outputs, from which losses and metrics are computed.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.finetune.training import Precision

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def require_precision(precision: Precision, device: torch.device) -> None:
    """Raise ValueError if `device` can't compute in `precision`. A CPU computes 16 bits everywhere, but only
    new ones faster than float32. Every GPU that torch supports computes float16.
    """
    if (
        precision == "bfloat16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ValueError(
            f"finetune.precision is bfloat16, which {torch.cuda.get_device_name(device)} does not compute; "
            "set finetune.precision=float16 or float32, or take a GPU of compute capability 8.0 or more"
        )


def use_precision(model: Any, precision: Precision, device: torch.device) -> None:
    """Make `model` compute its forward pass in `precision` from now on; its weights and names stay."""
    if precision == "float32":
        return
    model.precision = precision
    forward, dtype = model.forward, TYPES[precision]

    @functools.wraps(forward)
    def forward_in_16_bits(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(device.type, dtype=dtype):
            outputs: Tensor = forward(*args, **kwargs)
        return outputs.float() if outputs.dtype.itemsize < 4 else outputs

    model.forward = forward_in_16_bits


def read_precision(model: nn.Module) -> Precision:
    """In which `model` computes its forward pass."""
    return getattr(model, "precision", "float32")
