"""Every task by name. A new task is its file here, its file in `dataset/examples`, and one line."""

from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.tasks.task import Classification, LanguageModelling, Task


def build_task(spec: ModelSpec) -> Task:
    return Classification(len(spec.labels)) if spec.task == "classification" else LanguageModelling()
