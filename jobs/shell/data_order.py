"""The keys of stage 3 that say which sequences every step trains on."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from jobs.shell.settings import Positive, Section, TablePlace
from jobs.shell.stage import Work
from pipelines.dataset.mixing.rules import Curriculum, Mixture

if TYPE_CHECKING:
    from pipelines.finetune.training import Training
    from pipelines.pin import Pin


class OrderSection(Section):
    """A section with the length of a training, its mixture and its curriculum."""

    num_epochs: Annotated[float, Field(gt=0)]
    global_batch: Positive
    window_batches: Positive
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    mixture: Mixture
    mixtures: TablePlace
    curriculum: Curriculum

    @field_validator("mixture", mode="before")
    @classmethod
    def remove_nulls(cls, mixture: Any) -> Any:
        """A later layer takes a source of an earlier one back with null."""
        if not isinstance(mixture, dict):
            return mixture
        return {
            key: {source: number for source, number in value.items() if number is not None}
            if isinstance(value, dict)
            else value
            for key, value in mixture.items()
        }


def describe_mixture(training: "Training") -> dict[str, str]:
    """What is read of every source, for a person; empty without a mixture."""
    return {} if training.mixture is None else training.mixture.describe()


def list_inputs(config: OrderSection, work: Work[Any], training: "Training", sequences: "Pin") -> "list[Pin]":
    """The table versions that the training reads: sequences, and the mixture, which is written and shown."""
    if training.mixture is None or not work.needs_spark:
        return [sequences]
    from pipelines.dataset.mixing.stored import write_mixture

    for name, text in training.mixture.describe().items():
        work.progress.print(f"{name}: {text}")
    return [
        sequences,
        write_mixture(work.spark, config.mixtures, training.mixture, config.mixture, sequences),
    ]
