"""Which tokenizer a corpus gets. Standard library only: checking a configuration loads no tokenizer code."""

from dataclasses import dataclass, field

from pipelines.dataset.chat_rules import ChatRules

BPE, UNIGRAM = "bpe", "unigram"
MODELS = (BPE, UNIGRAM)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerChoice:
    """Which tokenizer a corpus gets."""

    base: str | None = None
    """Folder, package://NAME/FOLDER, hub id (org/name or org/name@revision) or MLflow's name (models:/NAME/3,
    models:/NAME@champion, runs:/RUN_ID/PATH) of a model with a fast tokenizer; null = train one."""
    model: str = BPE
    """Of a trained tokenizer, over bytes: bpe, or unigram, which needs sentencepiece."""
    vocab_size: int = 8192
    """Tokens of a trained tokenizer."""
    max_bytes: int = 100_000_000
    """UTF-8 bytes of text that a tokenizer is trained on, at most."""
    keep_trained: bool = True
    """Whether the tokenizer that earlier sequences were built with is kept while their settings stay the same
    and documents are added; else one is trained on all documents, and all are packed again."""
    chat: ChatRules = field(default_factory=ChatRules)
    """For tasks with conversations."""

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"model must be {' or '.join(MODELS)}, got {self.model!r}")
        if self.vocab_size < 1 or self.max_bytes < 1:
            raise ValueError(
                f"vocab_size and max_bytes must be at least 1, got {self.vocab_size} and {self.max_bytes}"
            )
