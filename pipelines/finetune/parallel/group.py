"""What strategies of several ranks share: small exchanges over a group, and sending whole weights."""

import torch
from torch import Tensor, nn

from pipelines.finetune.checkpoint.format import MODEL_FILE, load_model_tensors, read_file, read_record
from pipelines.finetune.models.lora import read_state
from pipelines.finetune.parallel.collectives.interface import Collectives, broadcast_tensors, require_equal
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


def broadcast_weights(collectives: Collectives, model: nn.Module) -> None:
    """Rank 0's parameters and buffers on every rank of the group, without those of an adapter's base."""
    tensors = read_state(model)
    require_equal(collectives, sum(tensor.numel() for tensor in tensors.values()), "numbers of weights")
    broadcast_tensors(collectives, tensors.items())


def load_and_broadcast(collectives: Collectives, model: nn.Module, checkpoints: Folder, step: int) -> None:
    """Rank 0 reads the weights of a checkpoint and sends them."""
    if collectives.rank == 0:
        weights = read_file(checkpoints, read_record(checkpoints, step), MODEL_FILE)
        load_model_tensors(model, weights, checkpoints.path)
    broadcast_weights(collectives, model)
