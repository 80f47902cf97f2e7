"""Every task by name. A new task is its file here, its file in `dataset/examples`, and one line."""

from collections.abc import Callable

from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.tasks.classification import Classification
from pipelines.finetune.tasks.language_modelling import LanguageModelling
from pipelines.finetune.tasks.task import Task

TASKS: dict[str, Callable[[ModelSpec], Task]] = {
    Classification.name: Classification,
    LanguageModelling.name: LanguageModelling,
}


def build_task(spec: ModelSpec) -> Task:
    """The task of a model. Raises ValueError for a task that is not in the table."""
    if spec.task not in TASKS:
        raise ValueError(f"unknown task {spec.task!r}; known: {', '.join(TASKS)}")
    return TASKS[spec.task](spec)
