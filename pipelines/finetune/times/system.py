"""What the machine of a rank does, under the names of MLflow's own system metrics.

Ranks do not reach MLflow, so MLflow's monitor runs at the driver alone. The ranks measure the same with the
same library, and what they measure travels with the times.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

HOST_NAMES = (
    "cpu_utilization_percentage",
    "system_memory_usage_megabytes",
    "system_memory_usage_percentage",
    "disk_usage_percentage",
    "network_receive_megabytes",
    "network_transmit_megabytes",
)
GPU_NAMES = ("memory_usage_megabytes", "memory_usage_percentage", "utilization_percentage")
MOST_GPUS = 8
"""Of a host: each rank says what its own does, under its number on the host."""
NAMES = (*HOST_NAMES, *(f"gpu_{gpu}_{name}" for gpu in range(MOST_GPUS) for name in GPU_NAMES))
"""Nearly all numbers of a message are not known; it is sent rarely."""


def make_measure(device: torch.device, local_rank: int) -> Callable[[], dict[str, float]]:
    """What measures this machine since the call before. Raises ImportError without psutil."""
    try:
        import psutil
    except ImportError as error:
        raise ImportError(
            "finetune.system_metrics=true needs psutil on every machine with ranks; install it, or set "
            "finetune.system_metrics=false"
        ) from error
    psutil.cpu_percent()  # the first call has no time before it
    start: Any = psutil.net_io_counters()

    def measure() -> dict[str, float]:
        memory, network = psutil.virtual_memory(), psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": psutil.disk_usage(os.sep).percent,
        }
        if start is not None and network is not None:  # a container may have no network
            values["network_receive_megabytes"] = (network.bytes_recv - start.bytes_recv) / 1e6
            values["network_transmit_megabytes"] = (network.bytes_sent - start.bytes_sent) / 1e6
        gpu = {f"gpu_{local_rank}_{name}": value for name, value in _measure_gpu(device).items()}
        return values | (gpu if local_rank < MOST_GPUS else {})

    return measure


def _measure_gpu(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    values = {
        "memory_usage_megabytes": (total - free) / 1e6,
        "memory_usage_percentage": (total - free) / total * 100,
    }
    with suppress(ImportError, RuntimeError):  # needs pynvml, and a driver that lets it ask
        values["utilization_percentage"] = float(torch.cuda.utilization(device))
    return values
