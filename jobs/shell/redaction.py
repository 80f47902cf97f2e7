"""Secrets never appear in what is printed or kept in a run.

A secret is known by its key, by the name of its environment variable, or by its place in a text such as a
URI. `remember` learns the values of secrets while a configuration loads; from then on `redact` finds them
everywhere.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "[redacted]"
MIN_CHARS = 4
"""A shorter secret is hidden under its own key only, because its letters may occur in any word."""
KEY = re.compile(
    r"""
    (?i: passw(or)?d | passphrase | secret([._-]?key)? | credential | (access|account|api|private)[._-]?key )
  | (?i: [.]key[.]pem $ )
  | (?i: (^|[_.-]) (auth|pwd|pass) $ )
  # but not pad_token, token_id and other keys of a tokenizer
  | (?i: (^ | (?<!pad|bos|eos|unk|cls|sep)(?<!mask)[_.-]) token (?= $|[_.-]) (?! _(id|index|type)) )
  | (?<=[a-z])(Token|Auth|Pwd)(?![a-z])
""",
    re.VERBOSE,
)
VARIABLE = re.compile(
    r"passw(or)?d|passphrase|secret|credential|(token|auth|keys?)(_|$)|_(pwd|pass)(_|$)", re.IGNORECASE
)
REFERENCE = re.compile(r"""\$\{\s*oc\.env:\s*['"]?(\w+)['"]?\s*(?:,\s*['"]?([^}'"$]*))?""")
# A password may hold '@', ':' and '/'. abfss://container@account has no secret.
USER_INFO = re.compile(
    r"(?<=://)[^\s/@:]*:\S*(?=@)"
    r"|(?<!abfs://)(?<!abfss://)(?<!wasb://)(?<!wasbs://)(?<=://)[^/@\s]+(?=@)",
    re.IGNORECASE,
)
NAMED = re.compile(r"(?P<option>-D|[?&;])?(?P<name>[\w.-]+)=")
VALUE = re.compile(r""""[^"]*"|'[^']*'|[^\s&]*""")

_known: set[str] = set()


def redact(value: Any, source: Any = None, key: str = "") -> Any:
    """A copy of `value` without secrets; `source` is the same value before interpolation."""
    if isinstance(value, Mapping):
        sources = source if isinstance(source, Mapping) else {}
        return {
            name: redact(inner, sources.get(name), f"{key}.{name}" if key else str(name))
            for name, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        origins = source if isinstance(source, list) and len(source) == len(value) else [None] * len(value)
        copies = [redact(inner, origin, key) for inner, origin in zip(value, origins, strict=True)]
        return copies if isinstance(value, list) else tuple(copies)
    if value is None or str(value).lower() in ("true", "false"):
        return value
    if KEY.search(key) or any(VARIABLE.search(name) for name, _ in _find_references(source)):
        return HIDDEN
    return _hide_secrets(value) if isinstance(value, str) else value


def remember(tree: Any, key: str = "") -> None:
    """Learn the secrets of `tree`, before or after interpolation.

    A secret is a text under a key such as `password`, or an environment variable with such a name.
    """
    if isinstance(tree, Mapping):
        for name, inner in tree.items():
            remember(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, (list, tuple)):
        for inner in tree:
            remember(inner, key)
    elif isinstance(tree, str):
        found = [
            os.environ.get(name, default) for name, default in _find_references(tree) if VARIABLE.search(name)
        ]
        # The name must end the key: the value of secret.scope is hidden under its key, but may be a common
        # word.
        if "${" not in tree and any(match.end() == len(key) for match in KEY.finditer(key)):
            found.append(tree)
        for secret in found:
            if len(secret) >= MIN_CHARS and secret.lower() not in ("true", "false", "none", "null"):
                _known.update((secret, quote(secret, safe="")))


def _find_references(source: Any) -> list[tuple[str, str]]:
    """Names and defaults of the environment variables in a text."""
    return REFERENCE.findall(source) if isinstance(source, str) else []


def _hide_secrets(text: str) -> str:
    """The text without known secrets, user information of URIs, and values of keys named as a secret."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text, at = USER_INFO.sub(HIDDEN, text), 0
    while named := NAMED.search(text, at):
        at = named.end()
        if KEY.search(named["name"]) or (named["option"] and named["name"].lower() in ("key", "sig")):
            value = VALUE.match(text, at)
            assert value is not None, "VALUE matches the empty text too"
            text, at = f"{text[:at]}{HIDDEN}{text[value.end() :]}", at + len(HIDDEN)
    return text
