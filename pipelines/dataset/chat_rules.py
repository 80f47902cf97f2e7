"""How conversations are written. Standard library only: checking a configuration loads no template code."""

import re
from dataclasses import dataclass, field
from datetime import date

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles that chat templates know."""
FIXED_ROLES = ("user", "assistant")
"""Roles that every template knows; the others may be given to a template under another of these names."""

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRules:
    """How conversations are written."""

    template: str | None = None
    """Jinja file; null = the chat template of the tokenizer."""
    roles: dict[str, str] = field(default_factory=lambda: {"human": "user", "gpt": "assistant"})
    """Names of roles in the documents -> a role in ROLES, such as bot: assistant, or developer: system for a
    template without developers."""
    date: str | None = None
    """YYYY-MM-DD that templates with a date write as today; null = none: they use the one they were made
    with, or are refused if they have none. The real date would give other tokens every day."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.roles.values()) - set(ROLES)):
            raise ValueError(f"roles must lead to {', '.join(ROLES)}; got {', '.join(unknown)}")
        if renamed := sorted(set(self.roles) & set(FIXED_ROLES)):
            raise ValueError(f"roles renames {', '.join(renamed)}, which every template knows; remove it")
        if self.date is not None:
            try:
                # Python reads more: 20260102 and 2026-W01-1 are dates too.
                is_date = bool(_DATE.fullmatch(self.date) and date.fromisoformat(self.date))
            except ValueError:
                is_date = False
            if not is_date:
                raise ValueError(f"date must be YYYY-MM-DD, got {self.date!r}")
