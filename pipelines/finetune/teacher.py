"""From which model a training also learns. No torch: a configuration is checked without loading it."""

import math
from dataclasses import dataclass

from pipelines.finetune.models.architecture import NEXT_TOKEN_TASKS

TASKS_WITH_TEACHER = ("classification", *NEXT_TOKEN_TASKS)
"""Tasks whose model gives one distribution for each target, which a teacher's can be compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """Distillation: the probabilities of another model as targets (Hinton et al. 2015);
    tasks/distillation.py has the formula."""

    base: str | None = None
    """Folder, package://NAME/FOLDER, hub id or MLflow's name of the teacher; null = there is none."""
    weight: float = 0.5
    """Share of the teacher in the loss; the rest is that of the task."""
    temperature: float = 2.0
    """Logits of both models are divided by it: the higher, the more the unlikely classes and tokens count."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight must be greater than 0 and at most 1, got {self.weight}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be greater than 0 and finite, got {self.temperature}")


def require_teachable(task: str, max_logit_tokens: int | None) -> None:
    """Raises ValueError if a training of `task` can't have a teacher."""
    if task not in TASKS_WITH_TEACHER:
        raise ValueError(
            f"finetune.teacher is for tasks {', '.join(TASKS_WITH_TEACHER)}, but the sequences are of task "
            f"{task}; set finetune.teacher.base to null"
        )
    if max_logit_tokens is not None:
        raise ValueError(
            "finetune.max_logit_tokens leaves no logits that a teacher's could be compared with; set it to "
            "null and finetune.micro_batch lower, or finetune.teacher.base to null"
        )
