"""The table of tasks in the dataset stage. A new task is a file beside this one and a line here."""

from pipelines.dataset.examples.classification import ClassificationExamples
from pipelines.dataset.examples.example import ExampleBuilder
from pipelines.dataset.examples.language_modelling import LanguageModellingExamples

EXAMPLES: dict[str, type[ExampleBuilder]] = {
    "classification": ClassificationExamples,
    "language_modelling": LanguageModellingExamples,
}


def require_task(name: str) -> str:
    """The name itself. Raises ValueError if no task has it."""
    if name not in EXAMPLES:
        raise ValueError(f"should be {' or '.join(map(repr, EXAMPLES))}, got {name!r}")
    return name
