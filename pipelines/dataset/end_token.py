"""The token that ends a document, from the files beside a tokenizer.json.

A fast tokenizer's JSON does not say which token is the end of text. The files that do, in the order asked:
tokenizer_config.json, special_tokens_map.json (`eos_token`), generation_config.json, config.json
(`eos_token_id`). If none of them names one, a special token that the tokenizer itself puts behind every text
is the end (BERT's [SEP]).
"""

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer

from pipelines.dataset.hub import Base

TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")
ID_FILES = ("generation_config.json", "config.json")


def find_end_token(tokenizer: Tokenizer, base: Base) -> int:
    """Id of the token that ends a document.

    Raises ValueError if neither the files nor the tokenizer know one, or if a file names a token that the
    tokenizer does not have.
    """
    for name in TOKEN_FILES:
        token = read_json(base, name).get("eos_token")
        content = token.get("content") if isinstance(token, dict) else token
        if content:
            return _require_token(tokenizer.token_to_id(content), content, base, name)
    for name in ID_FILES:
        number = read_json(base, name).get("eos_token_id")
        first = number[0] if isinstance(number, list) and number else number
        if isinstance(first, int):
            known = first if tokenizer.id_to_token(first) is not None else None
            return _require_token(known, first, base, name)
    closing = find_closing_token(tokenizer)
    if closing is None:
        raise ValueError(
            f"{base.pinned_name} names none; set eos_token in a tokenizer_config.json beside its "
            "tokenizer.json"
        )
    return closing


def find_closing_token(tokenizer: Tokenizer) -> int | None:
    """The special token that the tokenizer itself puts behind every text; None = it puts none there."""
    try:
        encoding = tokenizer.encode("a")
    except Exception as error:  # the library's errors have no class of their own
        raise ValueError(
            f"the tokenizer cannot encode 'a' to show what it puts behind every text ({error}); set "
            "eos_token in a tokenizer_config.json beside its tokenizer.json"
        ) from error
    return encoding.ids[-1] if encoding.ids and encoding.special_tokens_mask[-1] else None


def mark_as_special(tokenizer: Tokenizer, token_id: int) -> None:
    """Make a text that spells the token encode to its characters, also where the tokenizer's author forgot to
    mark it."""
    content = str(tokenizer.id_to_token(token_id))
    added = tokenizer.get_added_tokens_decoder().get(token_id)
    if added is None or not added.special:
        tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False)])
    assert tokenizer.token_to_id(content) == token_id, f"{content!r} changed its id"


def read_json(base: Base, name: str) -> dict[str, Any]:
    file = base.file(name)
    if file is None:
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{base.pinned_name}: {name} is not valid JSON ({error}); save the model again"
        ) from error
    return content if isinstance(content, dict) else {}


def _require_token(token_id: int | None, named: object, base: Base, file: str) -> int:
    if token_id is None:
        raise ValueError(
            f"{base.pinned_name}: {file} names {named!r} as end of text, but tokenizer.json has no such "
            "token; "
            "save the tokenizer again with transformers' save_pretrained"
        )
    return token_id
