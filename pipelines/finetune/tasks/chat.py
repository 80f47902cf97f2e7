"""Chat: language modelling whose targets are the turns of the assistant.

Training, its evaluations and its samples use the conversations as the dataset stage wrote them. Scoring does
not know the chat template: it continues and measures the text of a document as it is.
"""

from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.tasks.language_modelling import LanguageModelling


def build_chat(spec: ModelSpec) -> LanguageModelling:
    return LanguageModelling(spec, name="chat")
