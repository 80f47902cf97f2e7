"""The keys of stage 3 that single tasks read; others ignore them."""

from typing import Annotated

from pydantic import Field

from jobs.shell.settings import Section
from pipelines.finetune.models.architecture import RetrievalRules
from pipelines.finetune.preference import PreferenceLoss
from pipelines.finetune.teacher import Teacher


class TaskSection(Section):
    """A section with the settings of the tasks."""

    label_threshold: Annotated[float, Field(gt=0, lt=1)]
    mask_fraction: Annotated[float, Field(gt=0, lt=1)]
    preference: PreferenceLoss
    retrieval: RetrievalRules
    teacher: Teacher
