"""Measures the loss of each sequence while a rank trains, and writes it before each checkpoint.

The training does not notice: its loss is computed as without, so losses and weights are the same bits. The
losses of the rows are computed once more from the outputs, without gradients, and stay on the device until a
part is written; which rows they are of follows from the order of the training, so nothing else is kept.
Memory: 4 or 8 bytes for each sequence since the last checkpoint.
"""

from contextlib import suppress
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipelines.column_statistics import list_measured
from pipelines.dataset.numbering import RowNumbers
from pipelines.dataset.order import Order
from pipelines.dataset.reader import SequenceReader
from pipelines.dataset.trace import SequenceTrace
from pipelines.finetune.launch.faults import JoinError
from pipelines.finetune.losses.parts import SCHEMA, Part, forget_parts, name_file, open_losses, write_part
from pipelines.finetune.parallel.strategy import Strategy
from pipelines.finetune.tasks.task import Batch, LossPerRow, Task
from pipelines.finetune.training import BatchPlan, Training
from pipelines.storage import Folder

MOST_TENSORS = 1024
"""Losses of micro-batches that are kept apart; then they are joined, on their device."""


class RecordedRows(NamedTuple):
    """Which rows a step trains on."""

    reader: SequenceReader
    numbers: RowNumbers
    order: Order
    plan: BatchPlan


def number_sequences(training: Training) -> RowNumbers | None:
    """The ids of the sequences that are trained on; None if their losses are not recorded."""
    if not training.cadence.sequence_losses:
        return None
    data = training.data
    opened = SequenceTrace(data.sequences, table_id=data.table_id, version=data.version, split="train")
    return opened.numbers


class _RecordedTask:
    """A task that keeps the losses of the rows whenever it computes a loss; all else is the task itself."""

    def __init__(self, task: Task) -> None:
        if not isinstance(task, LossPerRow):
            raise ValueError(f"task {task.name} has no loss of each row; set finetune.sequence_losses=false")
        self._task, self._measured = task, task
        self.kept: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            self.kept.append(self._measured.row_losses(outputs.detach(), batch))
        if len(self.kept) == MOST_TENSORS:
            self.kept[:] = [torch.cat(self.kept)]
        return self._task.loss_sum(outputs, batch)


def open_recorder(
    training: Training,
    task: Task,
    strategy: Strategy,
    rows: RecordedRows | None,
    *,
    launch: int,
    first_step: int,
) -> "LossRecorder | None":
    """What measures the losses of sequences from `first_step` on; None = nothing does. Rank 0 deletes what a
    killed launch measured beyond that step."""
    losses = open_losses(training.folder)
    if strategy.rank == 0:
        forget_parts(losses, after=first_step)
    if rows is None:
        return None
    return LossRecorder(losses, task, strategy, rows, launch=launch, first_step=first_step)


class LossRecorder:
    """The losses of the rows of one rank."""

    def __init__(
        self,
        losses: Folder,
        task: Task,
        strategy: Strategy,
        rows: RecordedRows,
        *,
        launch: int,
        first_step: int,
    ) -> None:
        """`losses`: folder of the table. `launch`: a number that no other launch of this training has.
        `first_step`: steps done before."""
        self._recorded = _RecordedTask(task)
        self.task = cast(Task, self._recorded)
        """To train with instead of `task`."""
        self._losses, self._strategy, self._rows = losses, strategy, rows
        self._folder, self._done = f"{launch:013x}", first_step

    def write(self) -> None:
        """Write the steps since the last call, if there are any. Collective: all ranks call it after the same
        step. A step of which micro-batches are missing is left out.

        If a rank cannot write, its error is raised there and JoinError on the others: no rank waits, and the
        steps are in no part.
        """
        if not self._recorded.kept:
            return
        try:
            part = self._write_file()
        except Exception:
            with suppress(Exception):  # if a rank is gone, this error still is the cause
                self._count_failures(1)
            raise
        if self._count_failures(0):
            raise JoinError("another rank could not write the losses of its sequences")
        if part is None:
            return
        if self._strategy.rank == 0:
            write_part(self._losses, part)
        self._done = part.last

    def write_last(self, diverged: FloatingPointError) -> None:
        """Write the losses that say which sequence made a training diverge. If that fails, the cause still is
        `diverged`."""
        try:
            self.write()
        except Exception as error:
            diverged.add_note(f"The losses of the sequences of its last steps are not written: {error!r}")

    def _count_failures(self, own: int) -> int:
        """Of all ranks. When they have it, their files are written."""
        return int(self._strategy.sum(torch.tensor([float(own)]), name="losses_not_written").item())

    def _write_file(self) -> Part | None:
        """The part whose file of this rank is written; None if no step is whole."""
        losses = torch.cat(self._recorded.kept).double().cpu().numpy()  # the only transfer
        self._recorded.kept.clear()
        plan = self._rows.plan
        num_rows = plan.global_batch // plan.num_replicas
        num_steps = len(losses) // num_rows
        if not num_steps:
            return None
        strategy = self._strategy
        part = Part(
            first=self._done,
            last=self._done + num_steps,
            folder=self._folder,
            num_ranks=strategy.num_replicas,
        )
        file = name_file(part.folder, part.last, strategy.data_rank)
        self._losses.write(file, _to_parquet(self._describe(part, losses[: num_steps * num_rows])))
        return part

    def _describe(self, part: Part, losses: np.ndarray) -> pa.Table:
        """`losses`: (num_steps * num_rows,) in the order of steps and micro-batches."""
        rows, epochs = self._rows.order.read_steps(
            range(part.first, part.last)
        )  # (num_steps, global_batch) each
        rank = self._strategy.data_rank
        rows, epochs = (
            self._rows.plan.deal(each.T, rank).T for each in (rows, epochs)
        )  # (num_steps, num_rows)
        flat = rows.ravel()  # (num_steps * num_rows,)
        columns = {
            "step": pa.array(np.repeat(np.arange(part.first, part.last) + 1, rows.shape[1])),
            "epoch": pa.array(epochs.ravel() + 1),
            "rank": pa.repeat(rank, len(flat)),
            "sequence_id": pa.array(self._rows.numbers.find_ids(flat)),
            "loss_sum": pa.array(losses),
            "num_targets": pa.array(self._recorded.count_targets(self._rows.reader.num_targets[flat])),
        }
        return pa.table([columns[name] for name in SCHEMA.names], SCHEMA.names).cast(SCHEMA)


def _to_parquet(rows: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    measured = list_measured(rows.schema)
    pq.write_table(rows, sink, compression="zstd", store_schema=False, write_statistics=measured)
    return memoryview(sink.getvalue())
