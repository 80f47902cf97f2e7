"""Prompt and response: language modelling whose targets are the response. Scoring: see chat.py."""

from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.tasks.conversations import MAX_NEW_TOKENS, ConversationReader
from pipelines.finetune.tasks.language_modelling import LanguageModelling


def build_prompt_response(spec: ModelSpec) -> LanguageModelling:
    return LanguageModelling(
        spec, name="prompt_response", open_reader=ConversationReader, max_new_tokens=MAX_NEW_TOKENS
    )
