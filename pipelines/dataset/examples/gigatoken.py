"""Gigatoken (extra `fast`) as an encoder of texts, with bounded memory.

It keeps the ids of every word that it has seen, without a bound (0.10.0): up to 13 bytes for each byte of
text if no word repeats, next to nothing in natural text. So an encoder is made again, which takes 20 ms for
8,192 tokens, when the process has grown too much since it was made.
"""

import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_GROWTH_BYTES = 256 * 2**20
"""Growth of the process after which an encoder is made again, whatever it grew by."""
WATCHED_CHARS = 16_000_000
"""Characters between two looks at the memory: 1 s of a core or more, so that making encoders stays cheap."""
_LEFT_OUT = ("added_tokens", "post_processor", "normalizer", "truncation", "padding")
"""Parts of a tokenizer's JSON that encoding words does not need. Gigatoken would find added tokens in a text,
special ones too."""


class FastEncoder:
    """Encodes texts as `tokenizer`, which is byte-level BPE, encodes those that hold no added token and need
    no normalizer.

    Raises ImportError without gigatoken, and RuntimeError if gigatoken does not know such a tokenizer.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._settings = read_settings(tokenizer)
        self._encoder: Any = None
        self._make()

    def encode(self, text: str) -> np.ndarray:
        """(num_tokens,) int32. Raises RuntimeError if gigatoken fails."""
        if self._num_chars > WATCHED_CHARS:
            self._watch()
        self._num_chars += len(text)
        try:
            ids = self._encoder.encode(text)  # (num_tokens,) uint32
        except BaseException as error:
            raise _explain("fails at a text", error) from error
        return ids.view(np.int32)

    def _watch(self) -> None:
        if read_memory() - self._start_bytes > MAX_GROWTH_BYTES:
            self._make()
        self._num_chars = 0

    def _make(self) -> None:
        from gigatoken import Tokenizer as Gigatoken

        self._encoder = None  # first, so that its memory is free for the next one
        try:
            self._encoder = Gigatoken.from_json(self._settings).backend
        except BaseException as error:
            raise _explain("does not know this kind of tokenizer", error) from error
        self._start_bytes, self._num_chars = read_memory(), 0


def read_settings(tokenizer: "Tokenizer") -> str:
    """The tokenizer's JSON as gigatoken gets it."""
    settings = json.loads(tokenizer.to_str())
    return json.dumps(settings | dict.fromkeys(_LEFT_OUT) | {"added_tokens": []})


def read_memory() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say it (no /proc)."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _explain(fault: str, error: BaseException) -> BaseException:
    """What to raise for an error of gigatoken. A panic of Rust is no Exception."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        return error
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return RuntimeError(f"gigatoken {fault} ({first_line})")
