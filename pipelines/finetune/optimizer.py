"""The optimizer over the parameters, or the pieces of parameters, that a rank updates: torch's own AdamW,
Adafactor (Shazeer and Stern 2018) or Muon (Jordan 2024; its rate is scaled to that of AdamW, Liu et al. 2025,
arXiv 2502.16982), with up to four groups: head or body, decayed (matrices) or not (vectors).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adafactor, AdamW, Optimizer

from pipelines.finetune.optimization import Optimization, describe_no_muon

MUON = getattr(torch.optim, "Muon", None)
"""Part of torch from 2.9."""


class Trainable(NamedTuple):
    """A parameter, or a flat piece of one, that the optimizer updates."""

    name: str
    tensor: nn.Parameter
    ndim: int
    """Dimensions of the whole parameter: matrices decay, vectors do not."""
    is_hidden: bool = False
    """A whole matrix between two layers: no embedding, no output layer."""


def list_trainable(model: nn.Module) -> Iterator[Trainable]:
    """All parameters that are trained, whole."""
    outer = _find_outer(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_hidden = parameter.ndim == 2 and id(parameter) not in outer and not name.startswith("head.")
            yield Trainable(name, parameter, parameter.ndim, is_hidden)


def _find_outer(model: nn.Module) -> set[int]:
    """Ids of the parameters of embeddings and output layers."""
    outer: set[int] = set()
    for module in model.modules():
        find = getattr(module, "get_output_embeddings", None)  # transformers' models have it
        for each in (module if isinstance(module, nn.Embedding) else None, find() if find else None):
            outer.update(id(parameter) for parameter in (each.parameters() if each is not None else ()))
    return outer


def build_optimizer(trainable: Iterable[Trainable], optimization: Optimization) -> Optimizer:
    """The optimizer of `optimization`. No parameters at all is allowed. Raises ValueError if this torch does
    not have it.
    """
    return OPTIMIZERS[optimization.optimizer](list(trainable), optimization)


def _group(trainable: Iterable[Trainable], optimization: Optimization) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for each in trainable:
        groups.setdefault((each.name.startswith("head."), each.ndim >= 2), []).append(each.tensor)
    return [
        {
            "params": tensors,
            "rate_factor": optimization.head_learning_rate_factor if head else 1.0,
            "weight_decay": optimization.weight_decay if decayed else 0.0,
        }
        for (head, decayed), tensors in sorted(groups.items())
    ] or [{"params": [], "rate_factor": 1.0}]


def _build_adamw(trainable: list[Trainable], optimization: Optimization) -> Optimizer:
    groups, rate = _group(trainable, optimization), optimization.learning_rate
    return AdamW(groups, lr=rate, betas=optimization.betas, fused=True)


def _build_adafactor(trainable: list[Trainable], optimization: Optimization) -> Optimizer:
    return Adafactor(_group(trainable, optimization), lr=optimization.learning_rate)


def _build_muon(trainable: list[Trainable], optimization: Optimization) -> Optimizer:
    if MUON is None:
        raise ValueError(describe_no_muon(torch.__version__))
    hidden = _group([each for each in trainable if each.is_hidden], optimization)
    others = [each for each in trainable if not each.is_hidden]
    muon = MUON(hidden, lr=optimization.learning_rate, adjust_lr_fn="match_rms_adamw")
    return Pair(muon, _build_adamw(others, optimization))


OPTIMIZERS: dict[str, Callable[[list[Trainable], Optimization], Optimizer]] = {
    "adafactor": _build_adafactor,
    "adamw": _build_adamw,
    "muon": _build_muon,
}


class Pair(Optimizer):
    """Two optimizers as one: groups and state are those of both."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._parts = (first, second)
        for part in self._parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self._parts:
            part.step()

    def find_owner(self, tensor: Tensor) -> Optimizer:
        first, second = self._parts
        owned = {id(each) for group in first.param_groups for each in group["params"]}
        return first if id(tensor) in owned else second


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def new_state(optimizer: Optimizer, tensor: Tensor) -> dict[str, Tensor]:
    """The state of `tensor` before its first update: to be overwritten by a checkpoint or another rank."""
    owner = optimizer.find_owner(tensor) if isinstance(optimizer, Pair) else optimizer
    values = tensor.detach()
    if isinstance(owner, Adafactor):
        step = torch.zeros((), dtype=torch.float32)
        if values.dim() < 2:
            return {"step": step, "variance": torch.zeros_like(values)}
        rows, columns = values[..., :1], values[..., :1, :]
        return {"step": step, "row_var": torch.zeros_like(rows), "col_var": torch.zeros_like(columns)}
    if isinstance(owner, AdamW):
        return {
            "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
            "exp_avg": torch.zeros_like(values),
            "exp_avg_sq": torch.zeros_like(values),
        }
    return {"momentum_buffer": torch.zeros_like(values)}
