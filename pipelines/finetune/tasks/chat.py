"""Chat: language modelling whose targets are the turns of the assistant.

Scoring writes conversations with the template of the model, as the dataset stage does.
"""

from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.tasks.conversations import MAX_NEW_TOKENS, ConversationReader
from pipelines.finetune.tasks.language_modelling import LanguageModelling


def build_chat(spec: ModelSpec) -> LanguageModelling:
    return LanguageModelling(spec, name="chat", open_reader=ConversationReader, max_new_tokens=MAX_NEW_TOKENS)
