"""The question how much memory a rank will need, asked of a process of its own (child.py).

torch and transformers take 850 MB, and a driver has them loaded for nothing else. Nor does a library that
hangs or crashes on tensors without values keep a training from starting.
"""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from pipelines.dataset.rows import Rows
from pipelines.finetune.training import Training

CHILD = "pipelines.finetune.memory.child"
MAX_SECONDS = 120
"""An estimate takes 3 to 12 s on a busy core, and importing the libraries 3 to 10 s."""
LOWEST_PRIORITY = 19


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What the estimate depends on. The base of the model is one that needs no MLflow to be read."""

    training: Training
    longest: Rows
    """The longest rows of the train split, at least one."""
    evaluated: Rows
    """Those of a split that is evaluated, at least one."""
    num_evaluated: int
    """Rows that an evaluation measures."""
    num_ranks: int
    vocab_size: int
    is_local: bool
    """Whether the ranks run on this machine."""
    gives_gpus: bool
    """Whether Spark gives a GPU to each rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes of one rank."""

    weights: int
    gradients: int
    optimizer: int
    """State of the optimizer, and the running mean of the weights if there is one."""
    activations: int
    """All other tensors at the peak: what backward needs, logits, temporary results."""
    resident: int
    """On the CPU: what the process holds at its peak above what it held before it built the model, with the
    gaps of malloc and the copy of a checkpoint."""
    num_rows: int
    """Of the largest forward pass of what is at the peak."""
    num_tokens: int
    """Of its longest row."""
    checkpoint: int = 0
    """Of the copy that is written in the background, as far as it is part of `resident`."""
    in_evaluation: bool = False
    """Whether the peak is in an evaluation and not in a step."""

    @property
    def tensors(self) -> int:
        """At the peak: on a GPU, what torch.cuda.max_memory_allocated counts."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The estimate, and where the ranks will be."""

    estimate: MemoryEstimate
    on_gpu: bool
    gpu_bytes: int | None
    """Memory of a GPU of this machine; None = the ranks do not run here, or on no GPU."""


class NoAnswerError(RuntimeError):
    """Why nothing is known."""


def describe_error(error: Exception) -> str:
    """Its type and the beginning of its text."""
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {reason}"


class Asker:
    """Asks one question, and can be stopped meanwhile by another thread.

    `in_background`: the new process gets what others leave of the processors, and has no limit of time.
    """

    def __init__(self, *, in_background: bool = False) -> None:
        self._in_background = in_background
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped, self._lock = False, Lock()

    def ask(self, question: Question) -> Answer:
        """The answer of a new process, in seconds. Raises ImportError if torch or another library is not
        installed here, NoAnswerError if the model can't be built, or the process dies, is stopped or takes
        too long.
        """
        with self._lock:
            if self._stopped:
                raise NoAnswerError("the estimate was stopped")
            self._child = child = _start_child()
        if self._in_background:
            os.setpriority(os.PRIO_PROCESS, child.pid, LOWEST_PRIORITY)
        with child:
            try:
                timeout = None if self._in_background else MAX_SECONDS
                answered, errors = child.communicate(pickle.dumps(question), timeout=timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                raise NoAnswerError(f"the estimate took more than {MAX_SECONDS:g} s") from None
        if child.returncode:
            last = (errors.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise NoAnswerError(f"its process ended with status {child.returncode}: {last[:200]}")
        return _read(json.loads(answered))

    def stop(self) -> None:
        """End the process, if it runs. It is not asked again."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()


def _start_child() -> "subprocess.Popen[bytes]":
    places = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": places},
    )


def _read(found: dict[str, Any]) -> Answer:
    if "missing" in found:
        raise ImportError(found["missing"])
    if "fault" in found:
        raise NoAnswerError(found["fault"])
    return Answer(**{**found, "estimate": MemoryEstimate(**found["estimate"])})
