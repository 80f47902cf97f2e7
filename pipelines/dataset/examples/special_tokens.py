"""Where a template writes special tokens, as the library finds them in a text."""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.dataset.arrays import find_runs
from pipelines.dataset.tokenizer import from_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WHITE_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}
"""As the library sees it: Python's isspace takes four control characters more."""


class Special(NamedTuple):
    """A special token in a text, with the white space that it takes."""

    start: int
    stop: int
    token_id: int
    own_start: int
    """First character of the token itself."""
    own_stop: int


def mark_written(tokenizer: "Tokenizer", texts: Iterable[str], compared: Iterable[str]) -> "Tokenizer":
    """The tokenizer with every added token marked as special that `texts`, written by a template, have.

    Some authors forget the mark, and then "<|im_start|>" in a message would open a turn. Tokens that the
    template does not write itself, such as <tool_call>, that it looks for in contents (`compared`), such as
    </think>, and those of white space stay as they are: they are part of what a model writes and reads.
    """
    written, looked_for = "\n".join(texts), "\n".join(compared)
    settings = json.loads(tokenizer.to_str())
    marked = [
        token
        for token in settings["added_tokens"]
        if not token["special"]
        and token["content"].strip()
        and token["content"] in written
        and token["content"] not in looked_for
    ]
    for token in marked:
        token["special"] = True
    return from_json(json.dumps(settings, ensure_ascii=False)) if marked else tokenizer


class SpecialFinder:
    """Finds the special tokens of a tokenizer: the leftmost, of several there the longest."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        added = tokenizer.get_added_tokens_decoder()
        special = {token.content: (number, token) for number, token in added.items() if token.special}
        self._ids = {content: number for content, (number, _) in special.items()}
        self._takes_before = {content for content, (_, token) in special.items() if token.lstrip}
        self._takes_behind = {content for content, (_, token) in special.items() if token.rstrip}
        longest_first = sorted(filter(None, special), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def is_in(self, text: str) -> bool:
        """Whether a text spells a special token."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def find(self, text: str, is_template: np.ndarray) -> list[Special]:
        """The special tokens that lie in the template's own characters, `is_template` (num_chars,) bool, in
        order. What a content spells, alone or together with the template around it, is none."""
        if self._pattern is None:
            return []
        found: list[Special] = []
        for first, size in zip(*(array.tolist() for array in find_runs(is_template)), strict=True):
            for match in self._pattern.finditer(text, first, first + size):
                start, stop = own = match.span()
                before = found[-1].stop if found else 0
                while match[0] in self._takes_before and start > before and text[start - 1] in WHITE_SPACE:
                    start -= 1
                while match[0] in self._takes_behind and stop < len(text) and text[stop] in WHITE_SPACE:
                    stop += 1
                found.append(Special(start, stop, self._ids[match[0]], *own))
        return found
