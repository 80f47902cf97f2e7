"""Every task by name. A new task is its file here, its file in `dataset/examples`, and one line."""

from collections.abc import Callable

from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.tasks.chat import build_chat
from pipelines.finetune.tasks.classification import Classification
from pipelines.finetune.tasks.language_modelling import LanguageModelling
from pipelines.finetune.tasks.masked_language_modelling import MaskedLanguageModelling
from pipelines.finetune.tasks.multi_label_classification import MultiLabelClassification
from pipelines.finetune.tasks.preference import Preference
from pipelines.finetune.tasks.prompt_response import build_prompt_response
from pipelines.finetune.tasks.retrieval import Retrieval
from pipelines.finetune.tasks.task import Task

TASKS: dict[str, Callable[[ModelSpec], Task]] = {
    "chat": build_chat,
    Classification.name: Classification,
    LanguageModelling.name: LanguageModelling,
    MaskedLanguageModelling.name: MaskedLanguageModelling,
    MultiLabelClassification.name: MultiLabelClassification,
    Preference.name: Preference,
    "prompt_response": build_prompt_response,
    Retrieval.name: Retrieval,
}


def build_task(spec: ModelSpec) -> Task:
    """The task of a model. Raises ValueError for a task that is not in the table."""
    if spec.task not in TASKS:
        raise ValueError(f"unknown task {spec.task!r}; known: {', '.join(TASKS)}")
    return TASKS[spec.task](spec)
