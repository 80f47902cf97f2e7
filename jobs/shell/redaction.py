"""What is printed or kept in a run shows no secret, be it known by its key, its environment variable or its place in a text.

`remember` learns the values of secrets when a configuration is loaded; from then on `redact` finds them in every text.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "[redacted]"
MIN_CHARS = 4
"""Shorter secrets are hidden where they stand, not wherever their letters occur."""
KEY = re.compile(
    r"""
    (?i: passw(or)?d | passphrase | secret([._-]?key)? | credential | (access|account|api|private)[._-]?key )
  | (?i: (^|[_.-]) (auth|pwd|pass) $ )
  # not pad_token, token_id and others of a tokenizer
  | (?i: (^ | (?<!pad|bos|eos|unk|cls|sep)(?<!mask)[_.-]) token (?= $|[_.-]) (?! _(id|index|type)) )
  | (?<=[a-z])(Token|Auth|Pwd)(?![a-z])
""",
    re.VERBOSE,
)
VARIABLE = re.compile(
    r"passw(or)?d|passphrase|secret|credential|(token|auth|keys?)(_|$)|_(pwd|pass)(_|$)", re.IGNORECASE
)
REFERENCE = re.compile(r"""\$\{\s*oc\.env:\s*['"]?(\w+)['"]?\s*(?:,\s*['"]?([^}'"$]*))?""")
# A password may hold '@', ':' and '/'; abfss://container@account is no secret.
USER_INFO = re.compile(
    r"(?<=://)[^\s/@:]*:\S*(?=@)"
    r"|(?<!abfs://)(?<!abfss://)(?<!wasb://)(?<!wasbs://)(?<=://)[^/@\s]+(?=@)",
    re.IGNORECASE,
)
NAMED = re.compile(r"(?P<option>-D|[?&;])?(?P<name>[\w.-]+)=")
VALUE = re.compile(r""""[^"]*"|'[^']*'|[^\s&]*""")

_known: set[str] = set()


def redact(value: Any, source: Any = None, key: str = "") -> Any:
    """`value` of the same shape without secrets; `source` is the same before interpolation."""
    if isinstance(value, Mapping):
        sources = source if isinstance(source, Mapping) else {}
        return {
            name: redact(inner, sources.get(name), f"{key}.{name}" if key else str(name))
            for name, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        origins = source if isinstance(source, list) and len(source) == len(value) else [None] * len(value)
        shown = [redact(inner, origin, key) for inner, origin in zip(value, origins, strict=True)]
        return shown if isinstance(value, list) else tuple(shown)
    if value is None or str(value).lower() in ("true", "false"):
        return value
    if KEY.search(key) or any(VARIABLE.search(name) for name, _ in _references(source)):
        return HIDDEN
    return _without_secrets(value) if isinstance(value, str) else value


def remember(tree: Any, key: str = "") -> None:
    """Learn the secrets of `tree`, resolved or not: texts under a secret's key, environment variables named as a secret."""
    if isinstance(tree, Mapping):
        for name, inner in tree.items():
            remember(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, (list, tuple)):
        for inner in tree:
            remember(inner, key)
    elif isinstance(tree, str):
        found = [
            os.environ.get(name, default) for name, default in _references(tree) if VARIABLE.search(name)
        ]
        # The name must end the key: the value of secret.scope or credentials.provider is hidden there, but may be a common word.
        if "${" not in tree and any(match.end() == len(key) for match in KEY.finditer(key)):
            found.append(tree)
        for secret in found:
            if len(secret) >= MIN_CHARS and secret.lower() not in ("true", "false", "none", "null"):
                _known.update((secret, quote(secret, safe="")))


def _references(source: Any) -> list[tuple[str, str]]:
    """Names and defaults of the environment variables in a text."""
    return REFERENCE.findall(source) if isinstance(source, str) else []


def _without_secrets(text: str) -> str:
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text, at = USER_INFO.sub(HIDDEN, text), 0
    while named := NAMED.search(text, at):
        at = named.end()
        if KEY.search(named["name"]) or (named["option"] and named["name"].lower() in ("key", "sig")):
            value = VALUE.match(text, at)
            assert value is not None, "it matches the empty text"
            text, at = f"{text[:at]}{HIDDEN}{text[value.end() :]}", at + len(HIDDEN)
    return text
