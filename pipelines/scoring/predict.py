"""A model folder and texts or dialogues in, predictions out. The task of the model does the work; this file
knows none of them.

Needs torch, transformers and tokenizers only, so that executors and servers need no more.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pipelines.dataset.examples.example import Document
from pipelines.finetune.models.folder import LoadedModel, load_model
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.task import Prediction

DECIMALS = 6
"""Of a score and of probabilities: what lies beyond is float32 noise from the other texts in the batch."""
Precision = Literal["auto", "float32", "bfloat16"]


class Predictor:
    """A loaded model. The same texts in the same call give the same predictions on the same machine.

    The other texts of a call change the shape of a text's batch, which moves its score by float noise (below
    1e-5 in float32, 1e-2 in bfloat16). Its class changes only where two classes tie within that noise.
    """

    def __init__(
        self, model: LoadedModel, *, device: str | None = None, precision: Precision = "auto"
    ) -> None:
        """`device` null: as `choose_device`. `precision` auto: matrix products in bfloat16 on a GPU that has
        it, else float32.
        """
        self.device = torch.device(device or choose_device())
        self.precision = choose_precision(self.device, precision)
        self._module = model.module.eval().to(self.device)
        self._tokenizer, self.spec = model.tokenizer, model.spec
        self._task = build_task(model.spec)
        # A tokenizer.json may carry truncation and padding of its own; the window is the model's
        # (max_tokens).
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.model_seconds = 0.0
        """Time spent in the model since it was loaded."""
        self._began = 0.0
        self._module.register_forward_pre_hook(self._start_clock)
        self._module.register_forward_hook(self._stop_clock)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        num_threads: int | None = None,
        device: str | None = None,
        precision: Precision = "auto",
    ) -> "Predictor":
        """From a model folder. `num_threads` sets torch's threads for the whole process; null leaves them."""
        set_threads(num_threads)
        return cls(load_model(Path(folder)), device=device, precision=precision)

    @torch.inference_mode()
    def predict(
        self, texts: Sequence[str | Document], *, batch_size: int = 32, generate: bool = True
    ) -> list[Prediction]:
        """One prediction per text or document, in the order given; scores have 6 decimals.

        A model of conversations reads the parts of a document as its turns, and a text as what the user says.
        It answers, and scores the turns of the assistant that are there. `generate=False`: a language model
        writes no text, which takes most of its time, and only scores.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 text, got {batch_size}")
        documents = [Document("", each) if isinstance(each, str) else each for each in texts]
        in_bfloat16 = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bfloat16):
            predictions = self._task.predict(
                self._module, self._tokenizer, documents, batch_size=batch_size, generate=generate
            )
        return [_round(each) for each in predictions]

    def _start_clock(self, module: nn.Module, arguments: Any) -> None:
        self._began = time.perf_counter()

    def _stop_clock(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # until here, the GPU has only been given its work
        self.model_seconds += time.perf_counter() - self._began


def _round(prediction: Prediction) -> Prediction:
    labels = prediction.labels and [(name, round(share, DECIMALS)) for name, share in prediction.labels]
    return replace(prediction, score=round(prediction.score, DECIMALS), labels=labels)


def set_threads(num_threads: int | None) -> None:
    """Set torch's threads for the whole process; null leaves them."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)


def choose_device(worker: int = 0) -> str:
    """A GPU that torch sees, else the CPU. Workers with other numbers get the GPUs of a host in turn."""
    return f"cuda:{worker % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def choose_precision(device: torch.device, precision: Precision) -> Precision:
    """float32 or bfloat16. On a CPU, auto is float32: results stay equal to the last digit."""
    if precision != "auto":
        return precision
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"
