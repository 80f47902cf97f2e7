"""How conversations are written. Standard library only: checking a configuration loads no template code."""

from dataclasses import dataclass, field
from datetime import date

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles that chat templates know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRules:
    """How conversations are written."""

    template: str | None = None
    """Jinja file; null = the chat template of the tokenizer."""
    roles: dict[str, str] = field(default_factory=lambda: {"human": "user", "gpt": "assistant"})
    """Other names of roles in the documents -> a role in ROLES."""
    date: str | None = None
    """YYYY-MM-DD that templates with a date write as today; null = none: they use the one they were made
    with. The real date would give other tokens every day."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.roles.values()) - set(ROLES)):
            raise ValueError(f"roles must lead to {', '.join(ROLES)}; got {', '.join(unknown)}")
        if renamed := sorted(set(self.roles) & set(ROLES)):
            raise ValueError(f"roles renames {', '.join(renamed)}, which every template knows; remove it")
        if self.date is not None:
            try:
                date.fromisoformat(self.date)
            except ValueError:
                raise ValueError(f"date must be YYYY-MM-DD, got {self.date!r}") from None
