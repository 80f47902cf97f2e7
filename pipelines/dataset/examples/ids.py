"""Texts to token ids for byte-level tokenizers, two ways with equal ids.

`encode_batch_fast` of the library makes 1 million tokens per second on a core, because it tracks where each
character came from. Gigatoken (extra `fast`, BPE only) makes 15 to 120 million. It is used where it is
installed and where its ids were equal to those of the library:

- before the first text, on probes.py: odd texts, the special tokens, and the vocabulary of this tokenizer;
- then on one character of 256, as long as the worker lives.

A difference in the first check leaves all texts to the library; one in the second stops the stage.
"""

import logging
import unicodedata
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from pipelines.dataset.examples.gigatoken import FastEncoder
from pipelines.dataset.examples.probes import list_probes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

CHECKED_FRACTION = 1 / 256
"""Of the characters that gigatoken encodes, those that the library encodes again: 3 % of the time."""


class IdEncoder:
    """Encodes texts for a tokenizer for which `find_byte_lengths` finds lengths, without special tokens."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer, self._normalizer = tokenizer, tokenizer.normalizer
        self._added = self._list_added()
        self._num_chars = self._num_checked_chars = 0
        self._fast: FastEncoder | None = None
        self._fault = ""
        self._choose()

    @property
    def description(self) -> str:
        """What encodes, with its version; of the library also why it does."""
        if self._fast is not None:
            return f"gigatoken {version('gigatoken')}"
        return describe_library(self._fault)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text in order, (num_tokens,) int32.

        Raises RuntimeError with the remedy if gigatoken gives other ids than the library.
        """
        found = [self._encode_fast(text) for text in texts]
        self._check_one(texts, found)
        others = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        rest = iter(self._encode_by_library(others))
        return [next(rest) if ids is None else ids for ids in found]

    def find_normal(self, texts: Sequence[str]) -> np.ndarray:
        """(num_texts,) bool: whether the normalizer leaves a text as it is."""
        return np.array([self._is_normal(text) for text in texts], dtype=bool)

    def _list_added(self) -> set[str]:
        """What the library looks for in a text before it cuts words."""
        # Where `encode_special_tokens` is set, it reads special tokens in a text as characters.
        reads_specials = self._tokenizer.encode_special_tokens
        tokens = self._tokenizer.get_added_tokens_decoder().values()
        added = {token.content for token in tokens if not (reads_specials and token.special)}
        if self._normalizer is not None:
            added |= {str(self._normalizer.normalize_str(content)) for content in added}
        return added - {""}

    def _choose(self) -> None:
        """Take gigatoken if it gives the ids of the library for every probe."""
        try:
            self._fast = FastEncoder(self._tokenizer)
        except ImportError:
            self._fault = "gigatoken is not installed: pip install distributary[fast]"
            return
        except RuntimeError as error:
            self._fault = str(error)
            return
        probes = list_probes(self._tokenizer)
        found = [self._encode_fast(text) for text in probes]
        for text, ids, expected in zip(probes, found, self._encode_by_library(probes), strict=True):
            if ids is not None and not np.array_equal(ids, expected):
                self._leave(f"gigatoken gives other ids for {text[:40]!r}")
                return

    def _leave(self, fault: str) -> None:
        """Let the library encode every text from now on."""
        self._fast, self._fault = None, fault
        logger.warning("tokens are made by %s, which is slower", self.description)

    def _encode_fast(self, text: str) -> np.ndarray | None:
        """The ids of a text; None = it is one for the library."""
        if self._fast is None or not self._is_normal(text) or any(token in text for token in self._added):
            return None
        try:
            return self._fast.encode(text)
        except RuntimeError as error:
            self._leave(str(error))
            return None

    def _encode_by_library(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False) if texts else []
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _check_one(self, texts: Sequence[str], found: Sequence[np.ndarray | None]) -> None:
        """Compare a text with the library if it is time again."""
        fast = [(text, ids) for text, ids in zip(texts, found, strict=True) if ids is not None]
        self._num_chars += sum(len(text) for text, _ in fast)
        if not fast or self._num_checked_chars > CHECKED_FRACTION * self._num_chars:
            return
        text, ids = fast[self._num_chars % len(fast)]
        self._num_checked_chars += len(text)
        (expected,) = self._encode_by_library([text])
        if not np.array_equal(ids, expected):
            raise RuntimeError(
                "gigatoken gives other token ids than tokenizers for the text that begins with "
                f"{text[:40]!r}; uninstall gigatoken, run the stage again, and report it"
            )

    def _is_normal(self, text: str) -> bool:
        # find_byte_lengths takes no normalizer but NFC.
        return self._normalizer is None or text.isascii() or unicodedata.is_normalized("NFC", text)


def describe_library(reason: str) -> str:
    return f"tokenizers {version('tokenizers')} ({reason})"
