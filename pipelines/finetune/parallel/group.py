"""What strategies of several ranks share: small exchanges over a group, and sending whole weights."""

import torch
from torch import Tensor, nn

from pipelines.finetune.checkpoint.format import load_model_tensors, read_record
from pipelines.finetune.checkpoint.weights import read_weights
from pipelines.finetune.models.lora import read_state
from pipelines.finetune.parallel.collectives.interface import (
    Collectives,
    broadcast_tensors,
    own_slice,
    require_equal,
)
from pipelines.finetune.parallel.replica import shapes_of
from pipelines.finetune.parallel.whole_batch import Compared, Gathered
from pipelines.storage import Folder


def sum_over(collectives: Collectives, value: Tensor, name: str) -> Tensor:
    """A copy of `value` summed over the group, on the CPU, in any shape."""
    flat = value.detach().cpu().reshape(-1).clone()
    collectives.sum(flat, name=name).wait()
    return flat.view(value.shape)


def agree_on(collectives: Collectives, value: float) -> float:
    """Rank 0's `value` on every rank of the group."""
    agreed = torch.tensor([value], dtype=torch.float64)
    collectives.broadcast(agreed, name="agree").wait()
    return float(agreed)


def gather_rows(collectives: Collectives, rows: Compared) -> Gathered:
    """The rows of all ranks of the group. Two exchanges of equal slices: shorter ones are padded."""
    counts = torch.zeros(collectives.world_size, dtype=torch.int64)
    counts[collectives.rank] = len(rows.outputs)
    collectives.sum(counts, name="rows").wait()
    sizes: list[int] = counts.tolist()
    gathered = [
        _gather(collectives, tensor, sizes, f"rows.{field}")
        for field, tensor in zip(rows._fields, rows, strict=True)
    ]
    start = sum(sizes[: collectives.rank])
    own = slice(start, start + sizes[collectives.rank])
    return Gathered(Compared(*gathered), own, collectives.world_size)


def _gather(collectives: Collectives, tensor: Tensor, sizes: list[int], name: str) -> Tensor:
    """Row tensors of these numbers of rows by rank, end to end."""
    shape, most_rows = tensor.shape[1:], max(sizes)
    width = shape.numel()
    flat = torch.zeros(collectives.world_size * most_rows * width, dtype=tensor.dtype, device=tensor.device)
    own_slice(flat, collectives)[: tensor.numel()] = tensor.detach().reshape(-1)
    collectives.all_gather(flat, name=name).wait()
    parts = flat.view(collectives.world_size, most_rows, *shape)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def broadcast_weights(collectives: Collectives, model: nn.Module) -> None:
    """Rank 0's parameters and buffers on every rank of the group, without those of an adapter's base."""
    tensors = read_state(model)
    require_equal(collectives, sum(tensor.numel() for tensor in tensors.values()), "numbers of weights")
    broadcast_tensors(collectives, tensors.items())


def load_and_broadcast(collectives: Collectives, model: nn.Module, checkpoints: Folder, step: int) -> None:
    """Rank 0 reads the weights of a checkpoint and sends them."""
    if collectives.rank == 0:
        weights = read_weights(checkpoints, read_record(checkpoints, step), shapes_of(model))
        load_model_tensors(model, weights, checkpoints.path)
    broadcast_weights(collectives, model)
