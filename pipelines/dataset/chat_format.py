"""How conversations are written: a value that travels to executors and model folders. No library."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE_FILE = "chat_template.jinja"
"""As transformers names it, beside tokenizer.json."""
MAX_CHARS = 100_000
"""The longest published templates have 30,000 characters."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How conversations are written; travels to the executors."""

    template: str | None = None
    """Jinja; None = the tokenizer has none."""
    variables: tuple[tuple[str, str], ...] = ()
    """Name -> special token, such as ("eos_token", "<|im_end|>")."""
    roles: tuple[tuple[str, str], ...] = ()
    """Other name of a role -> role."""
    date: str | None = None
    """YYYY-MM-DD, today for the template; None = templates know no date."""
    name: str = "the chat template"
    """Where the template is from, for errors."""

    @property
    def fingerprint(self) -> str:
        """sha256 of all that the tokens depend on, first 32 hex digits."""
        content = json.dumps([self.template, self.variables, self.roles, self.date])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def with_end_token(self, tokenizer: "Tokenizer", end_token_id: int | None) -> "ChatFormat":
        """With an eos_token, even if no file names one."""
        known = dict(self.variables)
        if end_token_id is not None:
            known.setdefault("eos_token", str(tokenizer.id_to_token(end_token_id)))
        return replace(self, variables=tuple(sorted(known.items())))

    def to_fields(self) -> dict[str, Any]:
        """All that the tokens depend on, but for the template."""
        return {"variables": dict(self.variables), "roles": dict(self.roles), "date": self.date}


def from_fields(fields: dict[str, Any], template: str | None, name: str) -> ChatFormat:
    """The format of `ChatFormat.to_fields`. `name`: where it is from, for errors."""
    variables, roles = (tuple(sorted(fields[key].items())) for key in ("variables", "roles"))
    return ChatFormat(template, variables, roles, fields["date"], name)


def read_template(path: Path, name: str) -> str:
    """A Jinja file. Raises ValueError if it is too long, or no UTF-8."""
    with path.open("rb") as file:
        content = file.read(4 * MAX_CHARS + 1)  # at most 4 bytes a character
    try:
        return require_short(content.decode("utf-8"), name)
    except UnicodeDecodeError as error:
        if len(content) > 4 * MAX_CHARS:
            return require_short(content.decode("utf-8", "replace"), name)
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error


def require_short(template: str, name: str) -> str:
    """The template. Raises ValueError if it has more than MAX_CHARS characters."""
    if len(template) > MAX_CHARS:
        raise ValueError(f"{name} has {len(template):,} characters, at most {MAX_CHARS:,} are read")
    return template
