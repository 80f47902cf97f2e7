"""Writes the checkpoints of one rank, beside the training or in its way.

In the background: the rank copies what it writes (snapshot.py) and goes on, and a thread writes the copy.
Reading tensors, hashing and writing hold no lock of Python, so a step loses little. At most one checkpoint is
under way: the next one waits for it. Otherwise the rank writes what its tensors hold, and needs no copy.

A checkpoint is complete when all ranks have written their parts. They say so in files, `part-*.json`, because
no thread may use the collectives of the training; rank 0 waits for these files and writes `complete.json`.
A part that failed is an error of its rank after the next step, and of all ranks at the next checkpoint.
"""

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from pipelines.finetune.checkpoint.format import Files, Record, TrainState, folder_name, write_record
from pipelines.finetune.checkpoint.part import Part
from pipelines.finetune.checkpoint.snapshot import Snapshot
from pipelines.finetune.checkpoint.tensor_file import FileImage, write_image
from pipelines.finetune.launch.faults import JoinError
from pipelines.storage import Folder

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.05, 2.0
"""Between looks for the parts of other ranks: short at first, for small models."""
LAST_WAIT_SECONDS = 2.0
"""After an error, for the parts of other ranks, which may have met it too."""


class Ranks(Protocol):
    """What the writer needs of a strategy."""

    rank: int
    device: torch.device

    def sum(self, value: Tensor, *, name: str) -> Tensor: ...


class CheckpointWriter:
    """A context: at its end the last checkpoint is complete, and no thread is left. `write` and `finish` are
    collective.
    """

    def __init__(self, checkpoints: Folder, ranks: Ranks, launch: int, in_background: bool) -> None:
        """`launch`: a number that is the same on all ranks and in no other launch that writes there."""
        self._checkpoints, self._ranks, self._launch = checkpoints, ranks, launch
        self._snapshot = Snapshot(ranks.device) if in_background else None
        self._flight: _Flight | None = None

    def write(self, part: Part | None, state: TrainState) -> None:
        """Write this rank's part of the checkpoint of `state.step`; None = it has none. In the background it
        returns when the part is copied. On rank 0 all but the newest checkpoints and the best are deleted
        when this one is complete.

        Raises the error of the checkpoint before, or of this one if it is written in the foreground.
        """
        self.finish()
        made = {} if part is None else part.make_files()
        files: Mapping[str, FileImage] = made
        if made and self._snapshot is not None:
            files = self._snapshot.take(made)
        self._flight = _Flight(self._checkpoints, state, part, files, self._ranks.rank, self._launch)
        if self._snapshot is not None:
            self._flight.start()
        else:
            self._flight.write()
            self.finish()

    def check(self) -> None:
        """Raise the error of the checkpoint that is under way, if it has one by now. Not collective."""
        flight = self._flight
        if flight is not None and flight.error is not None:
            self._flight = None
            flight.stop(0.0)
            raise flight.error

    def finish(self) -> None:
        """Return when the last checkpoint is written: on rank 0, complete. Raises this rank's error, or
        JoinError if another rank could not write its part.
        """
        flight = self._flight
        if flight is None:
            return
        flight.written.wait()
        failed = torch.tensor([float(flight.error is not None)])
        num_failed = float(self._ranks.sum(failed, name="checkpoint is written"))
        self.check()
        if num_failed:
            flight.stop(0.0)
            self._flight = None
            raise JoinError(f"another rank could not write its part of checkpoint {flight.place}")
        flight.complete()
        self.check()
        self._flight = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """After an error of the training, a checkpoint under way still becomes complete if this rank can do
        that without the others: fewer steps are repeated.
        """
        if error is None:
            self.finish()
            return
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.written.wait()
            flight.stop(LAST_WAIT_SECONDS)
            if flight.error is not None:
                logger.warning("%s", flight.error)


class _Flight:
    """One checkpoint on its way to storage."""

    def __init__(
        self,
        checkpoints: Folder,
        state: TrainState,
        part: Part | None,
        files: Mapping[str, FileImage],
        rank: int,
        launch: int,
    ) -> None:
        self._checkpoints, self._state, self._part, self._files = checkpoints, state, part, files
        self._launch, self._is_first = launch, rank == 0
        self.place = f"{checkpoints.path}/{folder_name(state.step)}"
        self.error: BaseException | None = None
        self.written, self._stopped = threading.Event(), threading.Event()
        self._own = Files(sha256={})
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        def run() -> None:
            self.write()
            if self.error is None:
                self._complete()

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def write(self) -> None:
        """Write the part. An error is kept."""
        try:
            if self._part is not None:
                self._write(self._part)
        except BaseException as error:
            self.error = _name(error, self.place)
        finally:
            self.written.set()

    def complete(self) -> None:
        """Return when the record is written, which the thread does, if there is one. An error is kept."""
        if self._thread is None:
            self._complete()
        else:
            self._thread.join()

    def stop(self, wait_seconds: float) -> None:
        """Wait so long for the parts of others, then no more."""
        if self._thread is not None:
            self._thread.join(wait_seconds)
            self._stopped.set()
            self._thread.join()

    def _write(self, part: Part) -> None:
        step = folder_name(self._state.step)
        self._own = part.describe(
            {
                name: write_image(self._checkpoints, f"{step}/{name}", image)
                for name, image in self._files.items()
            }
        )
        if part.number > 0:
            note = json.dumps(asdict(self._own)).encode()
            self._checkpoints.write(f"{step}/{self._name_note(part, part.number)}", note)

    def _complete(self) -> None:
        try:
            if self._is_first and self._part is not None:
                files = self._gather(self._part)
                if files is not None:
                    record = Record(state=self._state, files=files, base=self._part.base)
                    write_record(self._checkpoints, record)
        except BaseException as error:
            self.error = _name(error, self.place)

    def _gather(self, part: Part) -> Files | None:
        """The files of all parts, when they are written; None if it stops before."""
        files, pause, step = self._own, FIRST_PAUSE_SECONDS, folder_name(self._state.step)
        missing = {self._name_note(part, number) for number in range(1, part.num_parts)}
        while True:
            for name in missing & set((self._checkpoints / step).names() if missing else ()):
                files = files.join(Files.parse(json.loads(self._checkpoints.read(f"{step}/{name}"))))
                missing.discard(name)
            if not missing:
                return files
            if self._stopped.wait(pause):
                return None
            pause = min(2 * pause, LAST_PAUSE_SECONDS)

    def _name_note(self, part: Part, number: int) -> str:
        """With the launch: a rank of an earlier one may still be writing the same step."""
        return f"part-{number:05d}-of-{part.num_parts:05d}.{self._launch}.json"


def _name(error: BaseException, place: str) -> BaseException:
    """The error with the checkpoint in its text, and of the same kind: some are worth another launch."""
    text = f"checkpoint {place} cannot be written: {error}"
    if not isinstance(error, OSError):
        error.add_note(text)
        return error
    named = OSError(error.errno, f"checkpoint {place} cannot be written: {error.strerror}")
    if error.errno is None:
        named = type(error)(text)
    named.__cause__ = error
    return named
