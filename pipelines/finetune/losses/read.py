"""Reads the losses of sequences: of the committed table, or of the parts of a training that has not ended."""

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipelines.finetune.losses.parts import SCHEMA, list_parts, open_losses
from pipelines.pin import FileSource, open_log
from pipelines.storage import locate


class StepRows(NamedTuple):
    """The sequences of one step, (num_rows,) each."""

    sequence_ids: np.ndarray
    epochs: np.ndarray
    ranks: np.ndarray
    losses: np.ndarray
    """Sums over targets, nats."""
    num_targets: np.ndarray


class SequenceLosses:
    """The losses of the sequences of one training."""

    def __init__(self, rows: pads.Dataset) -> None:
        self._rows = rows

    def read_steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps, ascending, and the mean loss over the targets of each: (num_steps,) each. One pass over
        three columns; memory is that of the steps."""
        sums, counts = np.zeros((2, 0))
        for batch in self._rows.to_batches(columns=["step", "loss_sum", "num_targets"]):
            if not batch.num_rows:
                continue
            steps, losses, num_targets = (column.to_numpy() for column in batch.columns)
            size = max(len(sums), int(steps.max()) + 1)
            sums, counts = (np.pad(each, (0, size - len(each))) for each in (sums, counts))
            sums += np.bincount(steps, losses, minlength=size)
            counts += np.bincount(steps, num_targets, minlength=size)
        steps = np.flatnonzero(counts)
        return steps, sums[steps] / counts[steps]

    def read_step(self, step: int) -> StepRows:
        """Reads the files and row groups that have the step. Raises LookupError if it was not recorded."""
        names = ["sequence_id", "epoch", "rank", "loss_sum", "num_targets"]
        rows = self._rows.to_table(columns=names, filter=pc.field("step") == step)
        if not rows.num_rows:
            steps, _ = self.read_steps()
            known = f"those of steps {steps[0]:,} to {steps[-1]:,} were" if len(steps) else "none were"
            raise LookupError(f"the losses of step {step:,} were not recorded; {known}")
        return StepRows(*(column.to_numpy() for column in rows.columns))


def read_losses(run_folder: str) -> SequenceLosses | None:
    """The losses of a training; None if it has not recorded any."""
    losses = open_losses(run_folder)
    log = open_log(losses.path)
    if log is not None:
        assert isinstance(log.source, FileSource), "a run folder is no name in a catalog"
        return SequenceLosses(log.source.table.to_pyarrow_dataset())
    system, root = locate(losses.path)
    files = [f"{root.rstrip('/')}/{file}" for part in list_parts(losses) for file in part.files]
    if not files:
        return None
    return SequenceLosses(pads.dataset(files, schema=SCHEMA, filesystem=system, format="parquet"))
