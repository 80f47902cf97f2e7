"""Checkpoints: weights, optimizer and progress of a step, complete or not there, safetensors only.

A checkpoint is a folder `step-00000200`; `complete.json`, written last, names its files with their sha256. What a killed writer
left has no such file and is ignored; what a disk spoiled fails its sha256 and the one before is taken. Dropout and data order
need no state: both are functions of (seed, step).
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass

import safetensors.torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.storage import Folder

logger = logging.getLogger(__name__)

NUM_KEPT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where training stands."""

    step: int
    """Steps done."""
    best_step: int
    """Step of the best evaluation so far; -1 = none yet."""
    best_value: float
    """Its metric; meaningless without a best step."""


def save_checkpoint(folder: Folder, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Write the checkpoint of `progress.step`, then forget all but the newest ones and the best. One rank calls it."""
    name = f"step-{progress.step:08d}"
    state = optimizer.state_dict()["state"]
    tensors = {f"{number}.{key}": value for number, values in state.items() for key, value in values.items()}
    files = {
        "model.safetensors": safetensors.torch.save(_independent(model)),
        "optimizer.safetensors": safetensors.torch.save(tensors),
    }
    digests = {}
    for file, content in files.items():
        folder.write(f"{name}/{file}", content)
        digests[file] = hashlib.sha256(content).hexdigest()
    folder.write(
        f"{name}/complete.json", json.dumps({"progress": asdict(progress), "sha256": digests}).encode()
    )
    steps = [step for step in _steps(folder) if step <= progress.step]
    for step in set(steps[:-NUM_KEPT]) - {progress.best_step}:
        folder.delete(f"step-{step:08d}")


def newest_checkpoint(folder: Folder) -> Progress | None:
    """Progress of the newest whole checkpoint; None = start from the beginning."""
    for step in reversed(_steps(folder)):
        name = f"step-{step:08d}"
        if not folder.exists(f"{name}/complete.json"):
            continue
        try:
            record = json.loads(folder.read(f"{name}/complete.json"))
            for file in record["sha256"]:
                _verified(folder, name, file)
            return Progress(**record["progress"])
        except (ValueError, FileNotFoundError) as error:
            logger.warning("taking the checkpoint before %s: %s", name, error)
    return None


def load_checkpoint(folder: Folder, step: int, model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Put the weights of `step` into `model`, and its state into `optimizer`."""
    name = f"step-{step:08d}"
    weights = safetensors.torch.load(_verified(folder, name, "model.safetensors"))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    still_missing = set(missing) - _shared_names(model, set(weights))
    if still_missing or unexpected:
        raise ValueError(
            f"checkpoint {folder.path}/{name} is of another model: missing {sorted(still_missing)[:3]}, "
            f"unexpected {unexpected[:3]}; train in a new folder"
        )
    if optimizer is not None:
        state: dict[int, dict[str, object]] = {}
        for key, value in safetensors.torch.load(_verified(folder, name, "optimizer.safetensors")).items():
            number, _, field = key.partition(".")
            state.setdefault(int(number), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _verified(folder: Folder, name: str, file: str) -> bytes:
    """A file of a checkpoint. Raises ValueError if it is not what was written."""
    content = folder.read(f"{name}/{file}")
    if (
        hashlib.sha256(content).hexdigest()
        != json.loads(folder.read(f"{name}/complete.json"))["sha256"][file]
    ):
        raise ValueError(
            f"{folder.path}/{name}/{file} does not match its sha256; delete {name} and run the training again"
        )
    return content


def _steps(folder: Folder) -> list[int]:
    return [int(name.removeprefix("step-")) for name in folder.names() if name.startswith("step-")]


def _independent(model: nn.Module) -> dict[str, Tensor]:
    """The state without the second name of tied weights, which safetensors refuses to store twice."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            tensors[name] = tensor.detach().cpu().contiguous()
        seen.add(tensor.data_ptr())
    return tensors


def _shared_names(model: nn.Module, given: set[str]) -> set[str]:
    """Names that share storage with a name in `given`."""
    state = model.state_dict()
    pointers = {state[name].data_ptr() for name in given if name in state}
    return {name for name, tensor in state.items() if tensor.data_ptr() in pointers}
