"""What the tokens of sequences depend on besides documents: it goes into the fingerprint of their table."""

from dataclasses import asdict

from pipelines.dataset import layout
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer import identify_tokenizer
from pipelines.dataset.tokenizer_choice import TokenizerChoice


def describe_settings(task: str, tokenizer: TokenizerChoice, packing: PackingRules) -> dict[str, object]:
    """Task, packing, layout of the groups and identity of the tokenizer, in plain types."""
    builder = load_builder(task)
    return {
        "layout": layout.LAYOUT_REVISION,
        "task": task,
        "packing": asdict(packing),
        **identify_tokenizer(tokenizer, is_chat=builder.is_chat, with_mask=builder.needs_mask_token),
    }
