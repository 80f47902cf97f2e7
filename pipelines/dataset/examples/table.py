"""The table of tasks in the dataset stage. A new task is a file beside this one and a line here.

The files are imported when a builder is asked for: the configuration needs only the names, without NumPy.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.dataset.examples.example import ExampleBuilder


def _load_chat() -> "type[ExampleBuilder]":
    from pipelines.dataset.examples.chat import ChatExamples

    return ChatExamples


def _load_classification() -> "type[ExampleBuilder]":
    from pipelines.dataset.examples.classification import ClassificationExamples

    return ClassificationExamples


def _load_language_modelling() -> "type[ExampleBuilder]":
    from pipelines.dataset.examples.language_modelling import LanguageModellingExamples

    return LanguageModellingExamples


def _load_masked_language_modelling() -> "type[ExampleBuilder]":
    from pipelines.dataset.examples.masked_language_modelling import MaskedLanguageModellingExamples

    return MaskedLanguageModellingExamples


def _load_multi_label_classification() -> "type[ExampleBuilder]":
    from pipelines.dataset.examples.multi_label_classification import MultiLabelClassificationExamples

    return MultiLabelClassificationExamples


def _load_preference() -> "type[ExampleBuilder]":
    from pipelines.dataset.examples.preference import PreferenceExamples

    return PreferenceExamples


def _load_prompt_response() -> "type[ExampleBuilder]":
    from pipelines.dataset.examples.prompt_response import PromptResponseExamples

    return PromptResponseExamples


def _load_retrieval() -> "type[ExampleBuilder]":
    from pipelines.dataset.examples.retrieval import RetrievalExamples

    return RetrievalExamples


EXAMPLES: "dict[str, Callable[[], type[ExampleBuilder]]]" = {
    "chat": _load_chat,
    "classification": _load_classification,
    "language_modelling": _load_language_modelling,
    "masked_language_modelling": _load_masked_language_modelling,
    "multi_label_classification": _load_multi_label_classification,
    "preference": _load_preference,
    "prompt_response": _load_prompt_response,
    "retrieval": _load_retrieval,
}


def load_builder(task: str) -> "type[ExampleBuilder]":
    """The example builder of a task."""
    return EXAMPLES[task]()


def require_task(name: str) -> str:
    """The name itself. Raises ValueError if no task has it."""
    if name not in EXAMPLES:
        raise ValueError(f"should be {' or '.join(map(repr, EXAMPLES))}, got {name!r}")
    return name
