"""Texts to token ids for byte-level BPE: each different word is encoded once.

Byte-level BPE first cuts a text into words by a regular expression, and then encodes every word on its own.
The library spends most of its time around the words: it tracks where each character came from. Here Python's
`re` cuts the texts, a dictionary holds the ids of the words seen so far as bytes, and the library's model
encodes only new words. 0.27 us per token of English text, where `encode_batch_fast` takes 1.0.

The ids are those of the library. Which characters are letters, digits and white space is asked of the library
itself, so Python's Unicode tables do not matter. Only expressions in PATTERNS are used. A text takes the
library where this way does not fit: other expressions, characters beyond U+FFFF (Python's `re` is slow with
such classes), added tokens in the text, and batches whose words hardly repeat.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What the library's ByteLevel uses; not part of a tokenizer's JSON."""
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = frozenset({GPT2, LLAMA3})
"""Expressions that mean the same to the library and to Python."""
CLASSES = (r"\p{L}", r"\p{N}", r"\s")
MAX_NEW_FRACTION = 0.2
"""Of the words of a batch: with more new ones the library is faster, as in Chinese, whose words between two
marks are clauses: 0.4. English pages: 0.06 in the first batch, 0.01 and less later."""
MAX_LEARNED = 1_000
"""New words of such a batch that are learned all the same: about 2 ms."""
KNOWN_BYTES = 32 * 2**20
"""Memory of the known words, up to one batch more: about 150,000 words. Then they are forgotten."""
ID_BYTES = 4
"""Of a token id."""
_ENTRY_BYTES = 100
"""Of a dictionary per entry."""
PROBE = (
    "It's 12345 o'clock:  we'LL\r\n\r\n go\u3000to \u00e9t\u00e9\u0301, \u4f60\u597d\uff01 \u0661\u0662\u2028"
    "\ttab \x00 x\u00a0 "
)
"""A text whose words are cut in most of the ways that the expressions know."""


class WordEncoder:
    """Encodes texts for a tokenizer for which `find_byte_lengths` finds lengths, without special tokens.
    Keeps the ids of words between calls."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer, self._model = tokenizer, tokenizer.model
        self._known: dict[str, bytes] = {}
        self._known_bytes = 0
        # Where `encode_special_tokens` is set, the library reads special tokens in a text as characters.
        reads_specials = tokenizer.encode_special_tokens
        added = tokenizer.get_added_tokens_decoder().values()
        self._added = [token.content for token in added if not (reads_specials and token.special)]
        self._pattern = _find_pattern(tokenizer.pre_tokenizer)

    @property
    def keeps_words(self) -> bool:
        """Whether texts are cut into words here; False = the library encodes every text."""
        return self._pattern is not None

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text in order, as int32."""
        if self._known_bytes > KNOWN_BYTES:
            self._known.clear()
            self._known_bytes = 0
        words = {place: words for place, text in enumerate(texts) if (words := self._cut(text)) is not None}
        new = set().union(*words.values()) - self._known.keys()
        is_new = len(new) > MAX_NEW_FRACTION * sum(map(len, words.values()))
        # Short texts have few words: these are learned from batch to batch, until most are known.
        self._learn(islice(new, MAX_LEARNED) if is_new else new)
        if is_new:
            words = {}
        whole = [text for place, text in enumerate(texts) if place not in words]
        rest, find = iter(self._encode_whole(whole)), self._known.__getitem__
        return [
            b"".join(map(find, words[place])) if place in words else next(rest) for place in range(len(texts))
        ]

    def _cut(self, text: str) -> list[str] | None:
        """The words of a text; None = it is one for the library."""
        if self._pattern is None or any(token in text for token in self._added):
            return None
        if not text.isascii() and len(text.encode("utf-16-le")) > 2 * len(text):  # beyond U+FFFF
            return None
        return self._pattern.findall(text)

    def _learn(self, words: Iterable[str]) -> None:
        characters = _map_bytes()
        for word in words:
            # The model reads one character for each byte.
            tokens = self._model.tokenize(word.encode().decode("latin-1").translate(characters))
            ids = np.array([token.id for token in tokens], dtype=np.int32).tobytes()
            self._known[word] = ids
            self._known_bytes += sys.getsizeof(word) + sys.getsizeof(ids) + _ENTRY_BYTES

    def _encode_whole(self, texts: Sequence[str]) -> list[bytes]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False) if texts else []
        return [np.array(encoding.ids, dtype=np.int32).tobytes() for encoding in encodings]


def _find_pattern(pre_tokenizer: PreTokenizer) -> re.Pattern[str] | None:
    """What cuts the words of texts up to U+FFFF, for Python; None if it is not in PATTERNS."""
    step: dict[str, Any] = json.loads(pre_tokenizer.__getstate__())  # as pickle keeps it
    *splits, last = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    expression = GPT2 if last["use_regex"] else None
    if splits:
        (split, *more), expression = splits, splits[0]["pattern"].get("Regex")
        if more or last["use_regex"] or split["behavior"] != "Isolated" or split["invert"]:
            return None
    if expression not in PATTERNS:
        return None
    pattern = _translate(expression)
    cut = [PROBE[start:stop] for _, (start, stop) in pre_tokenizer.pre_tokenize_str(PROBE)]
    if pattern.findall(PROBE) != cut:
        logger.warning(
            "tokenizers %s cuts words in another way than %s says; the library encodes every text, which is "
            "slower",
            version("tokenizers"),
            expression,
        )
        return None
    return pattern


@lru_cache
def _translate(expression: str) -> re.Pattern[str]:
    """The expression with its classes written out."""
    classes = {name: _list_characters(name) for name in CLASSES}

    def write_out(found: re.Match[str]) -> str:
        part = found[0]
        if part == r"\S":
            part = r"[^\s]"
        within = part if part.startswith("[") else f"[{part}]"
        for name, characters in classes.items():
            within = within.replace(name, characters)
        return within

    return re.compile(re.sub(r"\[[^]]*\]|\\[sS]|\\p\{[LN]\}", write_out, expression))


def _list_characters(name: str) -> str:
    """The characters of a class up to U+FFFF as ranges within brackets, by the library."""
    plane = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x10000))))
    runs = Split(Regex(f"{name}+"), "removed", invert=True).pre_tokenize_str(plane)
    return "".join(f"\\u{ord(run[0]):04x}-\\u{ord(run[-1]):04x}" for run, _ in runs)


@lru_cache
def _map_bytes() -> dict[int, str]:
    """The character that byte-level BPE writes for each byte."""
    # Every byte that UTF-8 has is in one of these characters.
    probe = "".join(map(chr, (*range(0x800), *range(0x800, 0xD800, 64), *range(0xE000, 0x110000, 64))))
    ((written, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(probe)
    return dict(zip(probe.encode(), written, strict=True))
