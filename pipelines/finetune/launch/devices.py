"""The GPU that Spark gave to a task becomes the only one that its process sees.

Spark's address may be an index, a UUID or a MIG device. CUDA_VISIBLE_DEVICES understands all three, `cuda:N`
only counts what is visible: an executor with CUDA_VISIBLE_DEVICES=3 and address 3 has no cuda:3. Spark's
discovery script takes an index from nvidia-smi, which counts along the PCI bus; CUDA counts the fastest GPU
first unless CUDA_DEVICE_ORDER says otherwise. On a machine with different GPUs an index would mean another
one.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
_started_with: str | None = None
"""The GPU with which this process has started CUDA. CUDA reads VISIBLE once, and Spark reuses Python workers.
"""


@contextmanager
def show_only(gpu: str | None) -> Iterator[None]:
    """Show `gpu` alone to CUDA inside the context; None changes nothing.

    Raises OSError if CUDA has started with another GPU in this process: Spark then starts the task again in a
    new one.
    """
    global _started_with
    if gpu is None:
        yield
        return
    if _cuda_has_started() and gpu != _started_with:
        raise OSError(
            errno.EAGAIN,
            f"this Python worker has started CUDA with GPU {_started_with}, and Spark now gives it {gpu}",
        )
    before = {name: os.environ.get(name) for name in (VISIBLE, ORDER)}
    os.environ[VISIBLE] = gpu
    if gpu.isdigit():
        os.environ.setdefault(ORDER, "PCI_BUS_ID")
    try:
        yield
    finally:
        if _cuda_has_started():
            _started_with = gpu
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _cuda_has_started() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
