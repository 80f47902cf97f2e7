"""The keys of stage 3 that say on what, how often and how long a training measures what it has learned."""

from typing import Annotated

from pydantic import Field

from jobs.shell.settings import Positive, Section, Split


class MeasuringSection(Section):
    """A section with the evaluations of a training."""

    evaluation_split: Split
    final_split: Split
    evaluate_every_steps: Positive
    max_evaluation_sequences: Positive | None
    stop_after_evaluations: Positive | None
    stop_min_gain: Annotated[float, Field(ge=0)]
