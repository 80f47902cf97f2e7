"""What the strategies share in which every rank holds all weights: forward, backward, and reading
checkpoints.

Plain functions; each strategy calls those it needs.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.finetune.average import WeightAverage
from pipelines.finetune.checkpoint.format import (
    DamagedCheckpointError,
    Piece,
    PieceState,
    Record,
    TrainState,
    complete_steps,
    folder_name,
    load_model_tensors,
    read_record,
    require_base,
)
from pipelines.finetune.checkpoint.sharded import read_pieces
from pipelines.finetune.checkpoint.weights import read_weights
from pipelines.finetune.lack_of_memory import explain_batch
from pipelines.finetune.launch.faults import JoinError
from pipelines.finetune.models.lora import find_attached
from pipelines.finetune.optimizer import new_state
from pipelines.finetune.parallel.buckets import GradientBuckets
from pipelines.finetune.parallel.strategy import BuildModel, Strategy
from pipelines.finetune.parallel.whole_batch import Gather, accumulate_compared
from pipelines.finetune.tasks.task import Batch, Task
from pipelines.storage import Folder

logger = logging.getLogger(__name__)


def accumulate(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Task,
    *,
    num_targets: float,
    gather: Gather,
    before_pass: Callable[[int], None] = lambda number: None,
) -> Tensor:
    """Add the gradients of all micro-batches; the sum of their losses over `num_targets`, (1,) float64 on the
    device.

    The sum of this over replicas is the mean loss of the global batch, and the sum of the gradients is its
    gradient. `before_pass` gets the number of each micro-batch, from 1, before its forward pass. `gather` is
    for tasks that compare rows.
    """
    if task.compares_rows:
        return accumulate_compared(
            model, batches, task, num_targets=num_targets, gather=gather, before_pass=before_pass
        )
    model.train()
    share: Tensor | None = None
    for number, batch in enumerate(batches, 1):
        before_pass(number)
        with explain_batch(model, batch):
            loss = task.loss_sum(model(**batch.inputs), batch) / num_targets
            loss.backward()
        part = loss.detach().double().reshape(1)
        share = part if share is None else share + part
    assert share is not None, "BatchPlan gives every rank at least one micro-batch"
    return share


def accumulate_and_send(
    model: nn.Module,
    gradients: GradientBuckets,
    batches: Iterable[Batch],
    task: Task,
    *,
    num_targets: float,
    num_micro_batches: int,
    gather: Gather,
) -> Tensor:
    """As `accumulate`, with the gradients in `gradients`, which are sent during the last backward pass."""

    def before_pass(number: int) -> None:
        if number == num_micro_batches:
            gradients.begin_last_pass()

    gradients.begin()
    share = accumulate(model, batches, task, num_targets=num_targets, gather=gather, before_pass=before_pass)
    gradients.send_rest()
    return share


def clip_gradients(optimizer: Optimizer, max_norm: float, loss_scale: float) -> float:
    """Divide all gradients by `loss_scale` and clip them to `max_norm`; their L2 norm before clipping."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for each in parameters if loss_scale != 1.0 else ():
        if each.grad is not None:
            each.grad.div_(loss_scale)
    return float(nn.utils.clip_grad_norm_(parameters, max_norm))


def run_forward(model: nn.Module, batch: Batch) -> Tensor:
    """The model's outputs in evaluation mode, without gradients."""
    model.eval()
    with torch.inference_mode(), explain_batch(model, batch):
        return model(**batch.inputs)


def prepare_model(
    strategy: Strategy, build_model: BuildModel, checkpoints: Folder, *, device: torch.device | None = None
) -> nn.Module:
    """The model on this rank's device, or on `device`. Only rank 0 loads base weights, and only if there is
    no checkpoint to continue from.
    """
    continues = strategy.agree(float(bool(complete_steps(checkpoints))) if strategy.rank == 0 else 0.0)
    model = build_model(strategy.rank == 0 and not continues)
    for parameter in model.parameters():
        if not parameter.is_contiguous():  # buckets and pieces are views of the flat parameter
            parameter.data = parameter.data.contiguous()
    _require_same_base(strategy, model)
    return model.to(device or strategy.device)


def _require_same_base(strategy: Strategy, model: nn.Module) -> None:
    """Every rank reads the base of an adapter itself. Raises ValueError on a rank that read another one."""
    attached = find_attached(model)
    if attached is None:
        return
    number = int(attached.base.sha256[:13], 16)  # 52 bits: exact as a float
    is_same = int(strategy.agree(float(number))) == number
    num_others = strategy.sum(torch.tensor([float(not is_same)]), name="base").item()
    if not is_same:
        raise ValueError(
            f"rank {strategy.rank} read other base weights from {attached.base.place} than rank 0; make the "
            "folder equal on all machines, put it on storage that they share, or name the base by hub "
            "id@commit"
        )
    if num_others:
        raise JoinError("another rank read other base weights")


class Reading(NamedTuple):
    """How a checkpoint gets into what a rank holds."""

    read: Callable[[Record], Any]
    """All that this rank needs of it. Raises DamagedCheckpointError."""
    use: Callable[[Any, str], None]
    """use(what was read, origin), if every rank could read its part. Raises ValueError for another model."""
    start_over: Callable[[], None]
    """No checkpoint can be read: weights of step 0, which `prepare_model` did not load."""


def restore(
    strategy: Strategy,
    build_model: BuildModel,
    model: nn.Module,
    optimizer: Optimizer,
    owned: dict[Piece, nn.Parameter],
    average: WeightAverage,
    *,
    checkpoints: Folder,
) -> TrainState:
    """`restore_newest` where every rank holds all weights: rank 0 reads them, every rank the pieces that it
    owns."""

    def read(record: Record) -> tuple[dict[str, Tensor] | None, dict[Piece, PieceState]]:
        weights = read_weights(checkpoints, record, shapes_of(model)) if strategy.rank == 0 else None
        return weights, read_pieces(checkpoints, record, owned)

    def use(found: tuple[dict[str, Tensor] | None, dict[Piece, PieceState]], origin: str) -> None:
        weights, pieces = found
        if weights is not None:
            load_model_tensors(model, weights, origin)
        set_optimizer_states(optimizer, owned, average.take_from(pieces))

    def start_over() -> None:
        if strategy.rank == 0:
            model.load_state_dict(build_model(True).state_dict())

    return restore_newest(strategy, model, checkpoints, Reading(read, use, start_over))


def restore_newest(strategy: Strategy, model: nn.Module, checkpoints: Folder, reading: Reading) -> TrainState:
    """Load the newest checkpoint that all ranks can read.

    Where training stands; step 0 if there is no checkpoint. If one rank meets a damaged file, all use the
    checkpoint before.
    """
    candidates = complete_steps(checkpoints) if strategy.rank == 0 else []
    had_candidates = strategy.agree(float(bool(candidates)))
    while True:
        step = int(strategy.agree(candidates.pop(0) if candidates else -1))
        if step < 0:
            break
        found = _read(model, checkpoints, step, reading)
        failed = float(strategy.sum(torch.tensor([float(found is None)]), name="checkpoint"))
        if found is not None and not failed:
            state, content = found
            state = _forget_missing_best(strategy, checkpoints, state)
            reading.use(content, f"{checkpoints.path}/{folder_name(step)}")
            return state
    if had_candidates:
        logger.warning(
            "no checkpoint in %s can be read; training starts from the beginning", checkpoints.path
        )
        reading.start_over()
    return TrainState()


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """By the names that checkpoints use."""
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _forget_missing_best(strategy: Strategy, checkpoints: Folder, state: TrainState) -> TrainState:
    """`state` without its best step if that checkpoint is gone, as when a newer best one was damaged."""
    is_there = state.best_step in (-1, *(complete_steps(checkpoints) if strategy.rank == 0 else []))
    if strategy.agree(float(is_there)):
        return state
    logger.warning("the best checkpoint (step %d) is gone; the next evaluation is the best", state.best_step)
    return replace(state, best_step=-1)


def _read(
    model: nn.Module, checkpoints: Folder, step: int, reading: Reading
) -> tuple[TrainState, Any] | None:
    try:
        record = read_record(checkpoints, step)
        require_base(model, record, f"{checkpoints.path}/{folder_name(step)}")
        return record.state, reading.read(record)
    except DamagedCheckpointError as error:
        logger.warning("using the checkpoint before %s: %s", folder_name(step), error)
        return None


def optimizer_states(optimizer: Optimizer, owned: dict[Piece, nn.Parameter]) -> dict[Piece, PieceState]:
    """The optimizer's state of each piece, flat; {} for a parameter that never got a gradient."""
    return {
        piece: {
            field: value if value.dim() == 0 else value.reshape(-1)
            for field, value in optimizer.state.get(tensor, {}).items()
        }
        for piece, tensor in owned.items()
    }


def set_optimizer_states(
    optimizer: Optimizer, owned: dict[Piece, nn.Parameter], states: dict[Piece, PieceState]
) -> None:
    """Put state that was read from a checkpoint into the optimizer."""
    for piece, tensor in owned.items():
        if states.get(piece):
            state = new_state(optimizer, tensor)
            for field, value in states[piece].items():
                state[field].copy_(value.view_as(state[field]))
            optimizer.state[tensor] = state


def whole_pieces(model: nn.Module) -> dict[Piece, nn.Parameter]:
    """Every trainable parameter as one piece."""
    return {
        Piece(name, 0, parameter.numel()): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
