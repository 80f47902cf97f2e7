"""How many FLOPs a device could do: what model FLOPs utilisation is a share of."""

from typing import Any

import torch

from pipelines.finetune.training import Training

PEAK_TFLOPS = {
    "NVIDIA B200": 2250.0,
    "NVIDIA H200": 989.4,
    "NVIDIA GH200": 989.4,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H100 PCIe": 756.5,
    "NVIDIA H100": 989.4,
    "NVIDIA A100": 312.0,
    "NVIDIA A30": 165.0,
    "NVIDIA A10G": 70.0,
    "NVIDIA A10": 125.0,
    "NVIDIA L40S": 362.1,
    "NVIDIA L40": 181.1,
    "NVIDIA L4": 121.0,
    "Tesla V100-PCIE": 112.0,
    "Tesla V100-SXM2": 125.0,
    "Tesla T4": 65.0,
}
"""Beginning of the name of a GPU -> 10^12 FLOPs per second of dense matrix products in 16 bits with sums in
float32, as NVIDIA's data sheets say. The first name that fits counts, so longer ones stand before shorter
ones. A part of a GPU (MIG) has another name, and no peak."""


def find_peak_flops(training: Training, device: torch.device) -> float | None:
    """FLOPs per second of which a rank could make use; None = not known, as for CPUs and for float32, whose
    peak depends on how torch is set."""
    execution = training.execution
    if execution.peak_tflops is not None:
        return execution.peak_tflops * 1e12
    if device.type != "cuda" or training.precision == "float32":
        return None
    known = find_known_tflops(torch.cuda.get_device_name(device))
    return None if known is None else known * 1e12 * (execution.gpus_per_rank or 1.0)


def find_known_tflops(name: Any) -> float | None:
    """Of a GPU of this name."""
    if "MIG" in name:
        return None
    return next((peak for start, peak in PEAK_TFLOPS.items() if name.startswith(start)), None)
