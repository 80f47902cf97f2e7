"""What the strategies share in which every rank holds all weights: forward, backward, and reading
checkpoints.

Plain functions; each strategy calls those it needs.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain

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
    read_record,
    require_base,
)
from pipelines.finetune.checkpoint.reading import load_weights, read_pieces
from pipelines.finetune.lack_of_memory import explain_batch
from pipelines.finetune.launch.faults import JoinError
from pipelines.finetune.models.lora import find_attached, read_state
from pipelines.finetune.optimizer import new_state
from pipelines.finetune.parallel.buckets import GradientBuckets
from pipelines.finetune.parallel.strategy import BuildModel, Strategy
from pipelines.finetune.parallel.whole_batch import Gather, accumulate_compared
from pipelines.finetune.rank_budget import RankBudget
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


def update_weights(
    optimizer: Optimizer, average: WeightAverage, budget: RankBudget, *, max_norm: float, loss_scale: float
) -> float:
    """The step of a rank that holds all gradients: divide them by `loss_scale`, clip them to `max_norm`,
    update the weights and what follows them; the L2 norm before clipping. If it is not finite, no weight
    changes.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for each in parameters if loss_scale != 1.0 else ():
        if each.grad is not None:
            each.grad.div_(loss_scale)
    budget.add_penalty()
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
    is_finite = math.isfinite(norm)
    if is_finite:
        optimizer.step()
    budget.update(is_finite=is_finite)
    if is_finite:
        average.update()
    return norm


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
    for tensor in chain(model.parameters(), model.buffers()):
        if not tensor.is_contiguous():  # buckets, pieces and what a checkpoint fills are flat views
            tensor.data = tensor.data.contiguous()
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


def restore(
    strategy: Strategy,
    build_model: BuildModel,
    model: nn.Module,
    optimizer: Optimizer,
    owned: dict[Piece, nn.Parameter],
    *beside: WeightAverage | RankBudget,
    checkpoints: Folder,
) -> TrainState:
    """`restore_newest` where every rank holds all weights and one optimizer is that of all: rank 0 reads the
    weights, every rank the pieces that it owns. `beside`: what keeps values of its own beside the state of
    the optimizer.
    """

    def read(record: Record) -> None:
        if strategy.rank == 0:
            load_weights(checkpoints, record, model)
        read_states(checkpoints, record, optimizer, owned, *beside)

    def start_over() -> None:
        optimizer.state.clear()
        load_start(strategy, build_model, model)

    return restore_newest(strategy, model, checkpoints, read, start_over)


def load_start(strategy: Strategy, build_model: BuildModel, model: nn.Module) -> None:
    """The weights of step 0 on rank 0, which `prepare_model` did not load."""
    if strategy.rank == 0:
        model.load_state_dict(build_model(True).state_dict())


def restore_newest(
    strategy: Strategy,
    model: nn.Module,
    checkpoints: Folder,
    read: Callable[[Record], None],
    start_over: Callable[[], None],
) -> TrainState:
    """Load the newest checkpoint that all ranks can read.

    Where training stands; step 0 if there is no checkpoint. `read` fills what this rank holds, in place. If
    it raises DamagedCheckpointError on one rank, all use the checkpoint before, which overwrites what was
    read so far. If none is left, `start_over` does so, on all ranks.
    """
    candidates = complete_steps(checkpoints) if strategy.rank == 0 else []
    had_candidates = strategy.agree(float(bool(candidates)))
    while True:
        step = int(strategy.agree(candidates.pop(0) if candidates else -1))
        if step < 0:
            break
        state = _read(model, checkpoints, step, read)
        failed = float(strategy.sum(torch.tensor([float(state is None)]), name="checkpoint"))
        if state is not None and not failed:
            return _forget_missing_best(strategy, checkpoints, state)
    if had_candidates:
        if strategy.rank == 0:
            logger.warning(
                "no checkpoint in %s can be read; training starts from the beginning", checkpoints.path
            )
        start_over()
    return TrainState()


def _forget_missing_best(strategy: Strategy, checkpoints: Folder, state: TrainState) -> TrainState:
    """`state` without its best step if that checkpoint is gone, as when a newer best one was damaged."""
    is_there = state.best_step in (-1, *(complete_steps(checkpoints) if strategy.rank == 0 else []))
    if strategy.agree(float(is_there)):
        return state
    logger.warning("the best checkpoint (step %d) is gone; the next evaluation is the best", state.best_step)
    return replace(state, best_step=-1)


def _read(
    model: nn.Module, checkpoints: Folder, step: int, read: Callable[[Record], None]
) -> TrainState | None:
    """Where training stands if this rank could read what it needs, else None; then it has read a part."""
    try:
        record = read_record(checkpoints, step)
        require_base(model, record, f"{checkpoints.path}/{folder_name(step)}")
        read(record)
        return record.state
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


def read_states(
    checkpoints: Folder,
    record: Record,
    optimizer: Optimizer,
    owned: dict[Piece, nn.Parameter],
    *beside: WeightAverage | RankBudget,
) -> None:
    """Put the state of owned pieces into the optimizer and what is `beside` it, in place of all state that
    there is.
    """
    optimizer.state.clear()

    def make(piece: Piece) -> PieceState:
        state = new_state(optimizer, owned[piece])
        for each in beside:
            state |= each.hold_for(piece)
        return state

    states = read_pieces(checkpoints, record, owned, make=make)
    for each in beside:
        states = each.take_from(states)
    for piece, tensor in owned.items():
        if states[piece]:
            optimizer.state[tensor] = states[piece]


def list_replicated(model: nn.Module, optimizer: Optimizer | None) -> Iterator[tuple[str, Tensor]]:
    """The weights that training changes, by name, and the state of an `optimizer` of whole parameters."""
    yield from read_state(model).items()
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            for field, value in sorted(optimizer.state.get(parameter, {}).items()):
                yield f"optimizer state {field} of {name}", value


def whole_pieces(model: nn.Module) -> dict[Piece, nn.Parameter]:
    """Every trainable parameter as one piece."""
    return {
        Piece(name, 0, parameter.numel()): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
