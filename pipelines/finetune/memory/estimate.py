"""How much memory a rank will need at its peak, before it starts.

The training's own code runs on tensors that have shapes and no values (tensors.py): it builds the model,
evaluates, takes two steps over the longest rows of the data and holds what a checkpoint holds. So the
estimate follows what the strategy, task, model, optimizer and torch do, and no formula has to be kept true.
Seconds, for any size of model; no weights are read.
"""

import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipelines.dataset.rows import Rows
from pipelines.finetune.memory.peers import AbsentPeers
from pipelines.finetune.memory.tensors import ShapesOnly
from pipelines.finetune.models.build import GPU_ATTENTION
from pipelines.finetune.models.lora import read_state
from pipelines.finetune.parallel.data_parallel import DataParallel
from pipelines.finetune.parallel.sharded_optimizer import ShardedOptimizer
from pipelines.finetune.parallel.single import SingleProcess
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.starting_model import build_without_teacher
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.task import Draw, Task
from pipelines.finetune.training import BatchPlan, Training
from pipelines.storage import Folder

NUM_COPIES = 2
"""Of a checkpoint's file while it is written: safetensors.torch.save makes one for its result (measured)."""
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes of one rank."""

    weights: int
    gradients: int
    optimizer: int
    """State of the optimizer, and the running mean of the weights if there is one."""
    activations: int
    """All other tensors at the peak of a step: what backward needs, logits, temporary results."""
    resident: int
    """On the CPU: what the process holds at its peak above what it held before it built the model, with the
    gaps of malloc and the copy that is written as a checkpoint."""
    num_rows: int
    """Of the largest micro-batch."""
    num_tokens: int
    """Of its longest row."""

    @property
    def tensors(self) -> int:
        """At the peak of a step: on a GPU, what torch.cuda.max_memory_allocated counts."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate_memory(
    training: Training, longest: Rows, *, num_ranks: int, vocab_size: int, on_gpu: bool = False
) -> MemoryEstimate:
    """The memory of rank 0, which needs the most. `longest`: the longest rows of the train split, at least
    one; too few are repeated. Raises what building the model raises.
    """
    task, plan = build_task(training.spec), _plan(training, num_ranks)
    num_rows = -(-training.schedule.global_batch // num_ranks // plan.num_micro_batches)
    rows = _repeat(longest, num_rows)
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
    with _same_random_state(), _no_moves(), tempfile.TemporaryDirectory() as empty, tensors:
        strategy.build(build, training.optimization, num_micro_batches=num_passes, checkpoints=Folder(empty))
        model, weights = built[0]
        if training.architecture.base is not None:
            tensors.hold(weights)  # the file, mapped while it is read
        _evaluate(strategy, task, rows)
        tensors.forget_peak()
        # The first step makes the state of the optimizer; from the second on, all are alike.
        _step(strategy, task, rows, num_passes=1, step=0)
        _step(strategy, task, rows, num_passes=num_passes, step=1)
        lasting, peak = tensors.num_bytes, tensors.peak_bytes
        trained = sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)
        saved = _count_tensors(read_state(model).values())
        file = max(saved, lasting - weights - trained)
        exported = weights if training.architecture.adapter.merge else saved
        tensors.hold(max(NUM_COPIES * file, exported))
    return MemoryEstimate(
        weights=weights,
        gradients=trained,
        optimizer=max(0, lasting - weights - trained),
        activations=peak - max(lasting, weights + trained),
        resident=tensors.peak_resident_bytes,
        num_rows=num_rows,
        num_tokens=max(len(each) for each in rows.input_ids),
    )


def _plan(training: Training, num_ranks: int) -> BatchPlan:
    return BatchPlan(
        global_batch=training.schedule.global_batch,
        micro_batch=training.execution.micro_batch,
        num_replicas=num_ranks,
    )


def _build_strategy(training: Training, num_ranks: int) -> Strategy:
    if num_ranks == 1:
        return SingleProcess(CPU)
    peers = AbsentPeers(num_ranks)
    if training.execution.strategy == "sharded_optimizer":
        return ShardedOptimizer(peers, CPU)
    return DataParallel(peers, CPU)


def _step(strategy: Strategy, task: Task, rows: Rows, *, num_passes: int, step: int) -> None:
    numbers = np.arange(len(rows.input_ids))
    batches = (task.collate(rows, CPU, Draw(numbers, 0, step)) for _ in range(num_passes))
    strategy.forward_backward(batches, task, num_targets=1)
    strategy.step(max_norm=1.0, learning_rate=1e-3)


def _evaluate(strategy: Strategy, task: Task, rows: Rows) -> None:
    batch = task.collate(rows, CPU, Draw(np.arange(len(rows.input_ids)), 0, None))
    outputs = strategy.forward(batch)
    with torch.inference_mode():
        task.sums(outputs, batch)


def _repeat(rows: Rows, num_rows: int) -> Rows:
    chosen = np.arange(num_rows) % len(rows.input_ids)
    fields: Any = (
        each[chosen] if isinstance(each, np.ndarray) else each and [each[row] for row in chosen]
        for each in rows
    )
    return Rows(*fields)


def _count_tensors(tensors: Iterable[Tensor]) -> int:
    storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


@contextmanager
def _same_random_state() -> Iterator[None]:
    """torch draws the same numbers afterwards as if nothing had happened."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
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
