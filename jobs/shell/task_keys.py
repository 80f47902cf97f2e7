"""The keys of stage 3 that only some tasks read."""

from typing import Annotated

from pydantic import Field

from jobs.shell.data_order import OrderSection
from pipelines.finetune.models.architecture import RetrievalRules


class TaskSection(OrderSection):
    """A section with what single tasks add to a training."""

    mask_fraction: Annotated[float, Field(gt=0, lt=1)]
    retrieval: RetrievalRules
