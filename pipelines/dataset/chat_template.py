"""How conversations are written: chat template of the tokenizer (Jinja), its special tokens, names of roles.

From a file of the configuration, or from the files beside tokenizer.json, in the order in which transformers
asks them: chat_template.jinja, `chat_template` of tokenizer_config.json. A template is only read here;
examples/sandbox.py says how it is rendered.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.dataset.chat_format import TEMPLATE_FILE, ChatFormat, from_fields, read_template, require_short
from pipelines.dataset.chat_rules import ChatRules
from pipelines.dataset.end_token import TOKEN_FILES, read_json
from pipelines.dataset.hub import Base, resolve_base
from pipelines.storage import Folder

if TYPE_CHECKING:
    from pipelines.pin import Pin

CONFIG_FILE = "tokenizer_config.json"
DEFAULT_NAME = "default"
"""Of several named templates, the one that is meant where no tools are offered."""


def load_chat_format(rules: ChatRules, base: str | None) -> ChatFormat:
    """With the template of the configuration, or else that of the tokenizer `base`.

    Raises FileNotFoundError or ValueError if a template cannot be read.
    """
    resolved = resolve_base(base) if base is not None else None
    template, name = _find_template(rules, resolved)
    if template is not None:
        require_short(template, name)
    variables = _read_variables(resolved) if resolved is not None else ()
    return ChatFormat(template, variables, tuple(sorted(rules.roles.items())), rules.date, name)


def write_chat_format(chat: ChatFormat, folder: str) -> str:
    """Keep the format in `folder` under its fingerprint, and return the fingerprint."""
    name = chat.fingerprint
    content = json.dumps({**chat.to_fields(), "template": chat.template}, ensure_ascii=False)
    Folder(folder).write(_file_of(name), content.encode())
    return name


def read_chat_format(folder: str, fingerprint: str) -> ChatFormat:
    """The format kept under `fingerprint`. Raises ValueError if the file has another one."""
    files, name = Folder(folder), _file_of(fingerprint)
    if not files.exists(name):
        raise FileNotFoundError(
            f"no {name} in {folder}; delete the sequences table and run the dataset stage again"
        )
    fields = json.loads(files.read(name))
    chat = from_fields(fields, fields["template"], "the chat template of the sequences")
    if chat.fingerprint != fingerprint:
        raise ValueError(
            f"{folder}/{name} was changed after it was written; delete it and the sequences table, then run "
            "the dataset stage"
        )
    return chat


def find_missing_format(folder: str, sequences: "Pin") -> str:
    """A sentence if the format of the sequences is not in `folder`; "" if it is, or if they have none."""
    name = sequences.facts.get("chat")
    is_there = name is None or Folder(folder).exists(_file_of(name))
    return "" if is_there else f"chat format {name} is not in {folder}"


def _file_of(fingerprint: str) -> str:
    return f"{fingerprint}.chat.json"


def _find_template(rules: ChatRules, base: Base | None) -> tuple[str | None, str]:
    """The template and where it is from."""
    if rules.template is not None:
        path = Path(rules.template).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"no chat template {path}; set dataset.tokenizer.chat.template to a Jinja file"
            )
        return read_template(path, name := f"chat template {path}"), name
    if base is None:
        return None, "the chat template"
    file = base.file(TEMPLATE_FILE)
    if file is not None:
        return read_template(file, name := f"{TEMPLATE_FILE} of {base.pinned_name}"), name
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


def _read_variables(base: Base) -> tuple[tuple[str, str], ...]:
    """Special tokens by name, as transformers gives them to a template: `bos_token`, `eos_token`, ..."""
    found: dict[str, str] = {}
    for file in TOKEN_FILES:
        for name, value in read_json(base, file).items():
            content = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(content, str):
                found.setdefault(name, content)
    return tuple(sorted(found.items()))
