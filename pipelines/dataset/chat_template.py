"""How conversations are written: chat template of the tokenizer (Jinja), its special tokens, names of roles.

From a file of the configuration, or from the files beside tokenizer.json, in the order in which transformers
asks them: chat_template.jinja, `chat_template` of tokenizer_config.json. A template is only read here;
examples/sandbox.py says how it is rendered.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from pipelines.dataset.chat_rules import ChatRules
from pipelines.dataset.end_token import TOKEN_FILES, read_json
from pipelines.dataset.hub import Base, resolve_base

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
MAX_CHARS = 100_000
"""The longest published templates have 30,000 characters."""
DEFAULT_NAME = "default"
"""Of several named templates, the one that is meant where no tools are offered."""


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

    def with_end_token(self, tokenizer: Tokenizer, end_token_id: int | None) -> "ChatFormat":
        """With an eos_token, even if no file names one."""
        known = dict(self.variables)
        if end_token_id is not None:
            known.setdefault("eos_token", str(tokenizer.id_to_token(end_token_id)))
        return replace(self, variables=tuple(sorted(known.items())))


def load_chat_format(rules: ChatRules, base: str | None) -> ChatFormat:
    """With the template of the configuration, or else that of the tokenizer `base`.

    Raises FileNotFoundError or ValueError if a template cannot be read.
    """
    resolved = resolve_base(base) if base is not None else None
    template, name = _find_template(rules, resolved)
    if template is not None and len(template) > MAX_CHARS:
        raise ValueError(f"{name} has {len(template):,} characters, at most {MAX_CHARS:,} are read")
    variables = _read_variables(resolved) if resolved is not None else ()
    return ChatFormat(template, variables, tuple(sorted(rules.roles.items())), rules.date, name)


def _find_template(rules: ChatRules, base: Base | None) -> tuple[str | None, str]:
    """The template and where it is from."""
    if rules.template is not None:
        path = Path(rules.template).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"no chat template {path}; set dataset.tokenizer.chat.template to a Jinja file"
            )
        return _read_text(path), f"chat template {path}"
    if base is None:
        return None, "the chat template"
    file = base.file(TEMPLATE_FILE)
    if file is not None:
        return _read_text(file), f"{TEMPLATE_FILE} of {base.pinned_name}"
    found = read_json(base, CONFIG_FILE).get("chat_template")
    if isinstance(found, list):  # several, with names
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        if DEFAULT_NAME not in named:
            raise ValueError(
                f"{CONFIG_FILE} of {base.pinned_name} has chat templates named "
                f"{', '.join(sorted(map(str, named))) or 'nothing'}, but none named {DEFAULT_NAME}; save the "
                "one to use in a file, and set dataset.tokenizer.chat.template to it"
            )
        found = named[DEFAULT_NAME]
    return found if isinstance(found, str) else None, f"chat_template of {base.pinned_name}"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error


def _read_variables(base: Base) -> tuple[tuple[str, str], ...]:
    """Special tokens by name, as transformers gives them to a template: `bos_token`, `eos_token`, ..."""
    found: dict[str, str] = {}
    for file in TOKEN_FILES:
        for name, value in read_json(base, file).items():
            content = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(content, str):
                found.setdefault(name, content)
    return tuple(sorted(found.items()))
