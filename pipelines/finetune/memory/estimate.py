"""How much memory a rank will need at its peak, before it starts.

The training's own code runs on tensors that have shapes and no values (tensors.py): it builds the model,
evaluates, takes two steps over the longest rows of the data, the second beside the copy of a checkpoint, and
evaluates again. So the estimate follows what the strategy, task, model, optimizer and torch do; the size of
that copy is the one formula. Seconds, for any size of model; no weights are read.
"""

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipelines.dataset.rows import Rows
from pipelines.finetune.evaluate import add_block
from pipelines.finetune.memory.cut import cut_estimate
from pipelines.finetune.memory.peers import AbsentPeers
from pipelines.finetune.memory.question import MemoryEstimate
from pipelines.finetune.memory.tensors import ShapesOnly
from pipelines.finetune.models.build import GPU_ATTENTION
from pipelines.finetune.models.lora import read_state
from pipelines.finetune.parallel.data_parallel import DataParallel
from pipelines.finetune.parallel.local_sgd import LocalSgd
from pipelines.finetune.parallel.sharded_optimizer import ShardedOptimizer
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.starting_model import build_without_teacher
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.task import COMPARED_ROWS, Draw, Task
from pipelines.finetune.training import BatchPlan, Training
from pipelines.storage import Folder

CPU = torch.device("cpu")


def estimate_memory(
    training: Training,
    longest: Rows,
    *,
    evaluated: Rows,
    num_evaluated: int,
    num_ranks: int,
    vocab_size: int,
    on_gpu: bool = False,
) -> MemoryEstimate:
    """The memory of rank 0, which needs the most. `longest` and `evaluated`: the longest rows of the train
    split and of one that is evaluated, at least one each; too few are repeated. `num_evaluated`: how many an
    evaluation measures, over all ranks. Raises what building the model raises.
    """
    task, plan = build_task(training.spec), BatchPlan.of(training, num_ranks)
    rows = _repeat(longest, -(-training.schedule.global_batch // num_ranks // plan.num_micro_batches))
    parts = cut_evaluation(task, plan, evaluated, num_evaluated)
    num_passes = min(2, plan.num_micro_batches)
    strategy, built = _build_strategy(training, num_ranks), list[tuple[nn.Module, int]]()

    def build(load_weights: bool) -> nn.Module:
        before = tensors.num_bytes
        model: Any = build_without_teacher(
            training, vocab_size=vocab_size, device=CPU, load_weights=False, shapes_only=True
        )
        backbone = next(each for each in model.modules() if isinstance(each, PreTrainedModel))
        if on_gpu and backbone._supports_sdpa:
            backbone.set_attn_implementation(GPU_ATTENTION)
        built.append((model, tensors.num_bytes - before))
        return model

    tensors = ShapesOnly()
    with _no_warnings(), _no_moves(), tempfile.TemporaryDirectory() as empty, tensors:
        strategy.build(build, training.optimization, num_micro_batches=num_passes, checkpoints=Folder(empty))
        model, weights = built[0]
        if training.architecture.base is not None:
            tensors.hold(weights)  # the file, mapped while it is read
        _evaluate(strategy, task, parts)
        tensors.forget_peak()
        # The first step makes the state of the optimizer; from the second on, all are alike.
        _step(strategy, task, rows, num_passes=1, step=0)
        trained = sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)
        saved = _count_tensors(read_state(model).values())
        state = tensors.num_bytes - weights - trained
        copied = _count_copied(training, saved, state, trained, num_ranks)
        tensors.keep(0 if on_gpu else copied)
        _step(strategy, task, rows, num_passes=num_passes, step=1)
        lasting, peak_of_steps = tensors.num_bytes, tensors.peak_bytes
        tensors.forget_peak()
        _evaluate(strategy, task, parts)  # now beside gradients and the state of the optimizer
        peak_of_evaluation = tensors.peak_bytes
        tensors.hold(weights if training.architecture.adapter.merge else saved)  # what is exported
    peak, in_evaluation = max(peak_of_steps, peak_of_evaluation), peak_of_evaluation > peak_of_steps
    passes = parts if in_evaluation else [rows]
    whole = MemoryEstimate(
        weights=weights,
        gradients=trained,
        optimizer=max(0, lasting - weights - trained),
        activations=peak - max(lasting, weights + trained),
        resident=tensors.peak_resident_bytes,
        checkpoint=0 if on_gpu else copied,
        num_rows=max(len(part.input_ids) for part in passes),
        num_tokens=max(len(each) for part in passes for each in part.input_ids),
        in_evaluation=in_evaluation,
    )
    is_cut = training.execution.strategy == "fully_sharded" and num_ranks > 1
    return cut_estimate(whole, model, num_ranks) if is_cut else whole


def _count_copied(training: Training, saved: int, state: int, trained: int, num_ranks: int) -> int:
    """Bytes of the copy of a checkpoint on rank 0: `saved` weights, `state` of the optimizer, `trained`."""
    execution = training.execution
    if not execution.checkpoint_in_background:
        return 0
    if num_ranks > 1 and execution.strategy == "fully_sharded":
        return (saved + max(0, state)) // num_ranks
    if num_ranks > 1 and execution.strategy == "sharded_optimizer":
        saved //= num_ranks
    if num_ranks > 1 and execution.local_sgd is not None:
        saved += trained  # between synchronisations, the mean and the rank's own weights
    return saved + max(0, state)


def _build_strategy(training: Training, num_ranks: int) -> Strategy:
    if num_ranks == 1:
        return SingleProcess(CPU)
    peers = AbsentPeers(num_ranks)
    if training.execution.strategy == "sharded_optimizer":
        return ShardedOptimizer(peers, CPU)
    if training.execution.local_sgd is not None:
        return LocalSgd(peers, CPU, training.execution.local_sgd)
    return DataParallel(peers, CPU)


def _step(strategy: Strategy, task: Task, rows: Rows, *, num_passes: int, step: int) -> None:
    numbers = np.arange(len(rows.input_ids))
    batches = (task.collate(rows, CPU, Draw(numbers, 0, step)) for _ in range(num_passes))
    strategy.forward_backward(batches, task, num_targets=1)
    strategy.step(max_norm=1.0, learning_rate=1e-3)


def cut_evaluation(task: Task, plan: BatchPlan, longest: Rows, num_rows: int) -> list[Rows]:
    """The forward passes of the largest block, as evaluate.py cuts it: of a task that compares rows there are
    several, whose outputs are held together."""
    if task.compares_rows:
        size = -(-num_rows // -(-num_rows // COMPARED_ROWS))
    else:
        size = min(plan.micro_batch, -(-num_rows // plan.num_replicas))
    block, num_parts = _repeat(longest, size), -(-size // plan.micro_batch)
    return [_take(block, part) for part in np.array_split(np.arange(size), num_parts)]


def _evaluate(strategy: Strategy, task: Task, parts: Sequence[Rows]) -> None:
    counts = [len(part.input_ids) for part in parts]
    draws = (Draw(np.arange(count), 0, None) for count in counts)
    batches = (task.collate(part, CPU, draw) for part, draw in zip(parts, draws, strict=True))
    add_block(task, strategy, counts, batches, None)


def _repeat(rows: Rows, num_rows: int) -> Rows:
    return _take(rows, np.arange(num_rows) % len(rows.input_ids))


def _take(rows: Rows, chosen: np.ndarray) -> Rows:
    fields: Any = (
        each[chosen] if isinstance(each, np.ndarray) else each and [each[row] for row in chosen]
        for each in rows
    )
    return Rows(*fields)


def _count_tensors(tensors: Iterable[Tensor]) -> int:
    storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


@contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # A copy of a module compares addresses; of tensors without values all are null.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield


@contextmanager
def _no_moves() -> Iterator[None]:
    """Modules stay on the CPU, where they are: torch can't move parameters without values."""
    module: Any = nn.Module
    move, module.to = module.to, lambda self, *args, **kwargs: self
    try:
        yield
    finally:
        module.to = move
