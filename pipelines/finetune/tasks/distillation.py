"""Distillation: a task whose model also learns the probabilities of a teacher.

    loss = (1 - w) * loss of the task + w * T^2 * KL(teacher || student)

summed over the same targets, so it has the divisor of the task. Both distributions are those of the logits
over the temperature T; T^2 keeps the size of their gradient (Hinton et al. 2015, section 2). Evaluations
measure the student alone, by the metrics of the task. Shapes: N targets, V vocabulary or classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from pipelines.dataset.examples.example import Document
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.tasks.table import build_task
from pipelines.finetune.tasks.task import Batch, Draw, Prediction, Task
from pipelines.finetune.teacher import Teacher


class Distillation:
    """The task of the student, with another loss in training."""

    compares_rows = False

    def __init__(self, task: Task, teacher: Teacher) -> None:
        self._task, self._weight, self._temperature = task, teacher.weight, teacher.temperature
        self.name, self.metric, self.auto_class = task.name, task.metric, task.auto_class

    def build_module(self, backbone: Any) -> nn.Module:
        return self._task.build_module(backbone)

    def count_targets(self, num_targets: np.ndarray) -> np.ndarray:
        return self._task.count_targets(num_targets)

    def collate(self, rows: Rows, device: torch.device, draw: Draw | None = None) -> Batch:
        return self._task.collate(rows, device, draw)

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        """`outputs`: (2, N, V) logits of student and teacher, see models/teacher.py.

        Raises ValueError for the outputs of a model without a teacher.
        """
        if outputs.dim() != 3 or len(outputs) != 2:
            raise ValueError(
                f"distillation needs the logits of student and teacher, got shape {list(outputs.shape)}; "
                "call attach_teacher, and train() before a step"
            )
        targets_N = batch.targets.long()
        if targets_N.dim() == 2:  # tokens: the logits at a token predict the token after it
            targets_N = targets_N[:, 1:][targets_N[:, 1:] != NO_LABEL]
        student_NV, teacher_NV = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        task_loss = cross_entropy(student_NV, targets_N, reduction="sum")
        difference = kl_div(
            (student_NV / self._temperature).log_softmax(-1),
            (teacher_NV / self._temperature).log_softmax(-1),
            reduction="sum",
            log_target=True,
        )
        return (1 - self._weight) * task_loss + self._weight * self._temperature**2 * difference

    def sums(self, outputs: Tensor, batch: Batch, total: Tensor | None = None) -> Tensor:
        return self._task.sums(outputs, batch, total)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        return self._task.metrics(sums)

    def confusion(self, sums: Tensor) -> np.ndarray | None:
        return self._task.confusion(sums)

    def sample_text(self, model: nn.Module, tokenizer: Tokenizer, rows: Rows) -> str | None:
        return self._task.sample_text(model, tokenizer, rows)

    def predict(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        documents: Sequence[Document],
        *,
        batch_size: int,
        generate: bool = True,
    ) -> list[Prediction]:
        return self._task.predict(model, tokenizer, documents, batch_size=batch_size, generate=generate)


def choose_task(spec: ModelSpec, teacher: Teacher | None) -> Task:
    """The task of a training."""
    task = build_task(spec)
    return task if teacher is None else Distillation(task, teacher)
