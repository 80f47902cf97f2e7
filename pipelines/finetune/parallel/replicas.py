"""Whether all ranks still hold the same weights and optimizer state.

They must, to the last bit: every rank starts from the same state and adds the same sums. A rank that differs
has a fault of memory or of a library, and nothing else would show it: losses stay plausible.

Each tensor is hashed where it is: its bits as integers, each times an odd number that depends on its place,
added up modulo 2^64. So one changed element always changes the hash, a GPU adds in any order, and one number
for each tensor leaves the device. Cost: one pass over the state, and one exchange of 16 bytes for each rank.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from pipelines.finetune.parallel.strategy import Strategy

BLOCK = 2**20
"""Elements that are hashed at once: 16 MiB of temporary memory."""
STEP = 0x9E3779B97F4A7C15 - 2**64
"""2^64 over the golden ratio, odd, as an int64: neighbouring places get factors that are far apart."""
MIXED_IN = 0x5851F42D4C957F2D
"""Odd: what the sum of a block is multiplied with before the next one is added."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ReplicasDifferError(RuntimeError):
    """Ranks that must hold the same tensors do not."""


def compare_replicas(strategy: Strategy, *, step: int, hosts: list[str]) -> None:
    """Raise ReplicasDifferError on every rank if the state of one differs after `step`. Collective. `hosts`:
    of all ranks."""
    names, hashes = hash_tensors(strategy.replicated())
    described = hashlib.sha256("\0".join(names).encode()).digest()[:7]
    whole = hashlib.sha256(hashes.numpy().tobytes()).digest()[:7]
    own = [int.from_bytes(described, "big"), int.from_bytes(whole, "big")]  # 56 bits: no sum overflows
    found = _gather(strategy, torch.tensor(own))  # (num_ranks, 2)
    if (found == found[0]).all():
        return
    if (found[:, 0] != found[0, 0]).any():
        raise ReplicasDifferError(_explain(found[:, 0].tolist(), "which tensors it holds", step, hosts))
    rows = _gather(strategy, hashes)  # (num_ranks, num_tensors)
    first = int((rows != rows[0]).any(0).nonzero()[0])
    raise ReplicasDifferError(_explain(rows[:, first].tolist(), names[first], step, hosts))


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> tuple[list[str], Tensor]:
    """Names, and (num_tensors,) int64 hashes on the CPU."""
    names, hashes = [], []
    factors: dict[torch.device, Tensor] = {}
    for name, tensor in tensors:
        if tensor.device not in factors:
            factors[tensor.device] = _make_factors(tensor.device)
        names.append(f"{name} {tensor.dtype} {list(tensor.shape)}")
        hashes.append(_hash(tensor.detach(), factors[tensor.device]))
    by_device: dict[torch.device, list[int]] = {}
    for number, each in enumerate(hashes):
        by_device.setdefault(each.device, []).append(number)
    joined = torch.zeros(len(hashes), dtype=torch.int64)
    for numbers in by_device.values():  # one transfer for each device
        joined[numbers] = torch.stack([hashes[number] for number in numbers]).cpu()
    return names, joined


def _make_factors(device: torch.device) -> Tensor:
    """(BLOCK,) int64: of each place in a block; odd, and modulo 2^64 as the product overflows."""
    return (2 * torch.arange(BLOCK, device=device) + 1) * STEP


def _hash(tensor: Tensor, factors: Tensor) -> Tensor:
    """() int64 on the device of `tensor`. Zeros have the hash 0, and so has an empty tensor."""
    bits = tensor.reshape(-1).view(_INTEGERS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for block in bits.split(BLOCK):
        total = total * MIXED_IN + (block.to(torch.int64) * factors[: len(block)]).sum()
    return total


def _gather(strategy: Strategy, row: Tensor) -> Tensor:
    """(num_ranks, len(row)) the int64 rows of all ranks; each number is sent as it is, beside zeros."""
    rows = torch.zeros(strategy.num_replicas, len(row), dtype=torch.int64)
    rows[strategy.data_rank] = row
    return strategy.sum(rows, name="replicas")


def _explain(values: list[int], name: str, step: int, hosts: list[str]) -> str:
    """Most ranks are taken to be right; of equally many, those with the lowest rank."""
    usual = max(dict.fromkeys(values), key=values.count)
    wrong = [rank for rank, value in enumerate(values) if value != usual]
    named = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in wrong)
    return (
        f"ranks must hold equal tensors, and after step {step} {named} differs from most; the first tensor "
        f"that differs is {name}. Memory or GPU of that machine may be faulty: run again without it. "
        "Training continues from its newest checkpoint; if the comparison before is older than that, train "
        "in a new folder"
    )
