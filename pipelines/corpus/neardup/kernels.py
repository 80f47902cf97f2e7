"""The two loops of MinHash over characters and shingles, compiled by Numba where it is installed.

Compiled, a signature takes a quarter of the time. Without Numba (extra `fast`), NumPy computes the same
values, so executors with and without it can work on one table. A test compares the two.

Compiling takes 2 s in each process, so the first texts of a process are left to NumPy: a small corpus would
not win that time back.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

logger = logging.getLogger(__name__)

PATIENCE_CHARS = 8 * 2**20
"""Characters that NumPy hashes before the loops are compiled: about half a second."""
_seen_chars = 0


@dataclass(frozen=True, slots=True)
class Kernels:
    """The compiled loops."""

    hash_words: Callable[..., int]
    smallest_values: Callable[..., None]


def count_chars(num_chars: int) -> None:
    """Say that so many characters were hashed in this process."""
    global _seen_chars
    _seen_chars += num_chars


def find_kernels() -> Kernels | None:
    """The compiled loops; None = NumPy shall do the work."""
    return compile_kernels() if _seen_chars > PATIENCE_CHARS else None


@cache
def compile_kernels() -> Kernels | None:
    """The loops, each compiled at its first call; None without a Numba that works with this NumPy."""
    try:
        from numba import njit
    except ModuleNotFoundError:
        return None
    except Exception as error:  # Numba checks versions in its own ways
        logger.warning("signatures are computed by NumPy, more slowly: Numba cannot be loaded (%s)", error)
        return None
    return Kernels(njit(nogil=True)(hash_words), njit(nogil=True)(smallest_values))


def smallest_values(shingles, factors, offsets, found):  # type: ignore[no-untyped-def]
    """found[k] = the smallest h * factors[k] + offsets[k] modulo 2**32, where h is the upper half of the hash
    of a shingle."""
    upper = (shingles >> np.uint64(32)).astype(np.uint32)
    for k in range(len(factors)):
        factor, offset, smallest = factors[k], offsets[k], np.uint32(0xFFFFFFFF)
        for place in range(len(upper)):
            smallest = min(smallest, np.uint32(upper[place] * factor + offset))
        found[k] = smallest


def hash_words(codes, kinds, lowers, base, words, firsts):  # type: ignore[no-untyped-def]
    """Fill `words` with the sums of code * base**i over the characters i of each word in lower case, modulo
    2**64, and `firsts` with the place where each word begins. Returns the number of words.

    `kinds` says of each code point whether it is a separator (0), part of a word (1), or a word (2).
    """
    num_words, inside, power, total = 0, False, np.uint64(1), np.uint64(0)
    for place in range(len(codes)):
        code = codes[place]
        kind = kinds[code]
        if kind == 1:
            if not inside:
                firsts[num_words], inside, power, total = place, True, np.uint64(1), np.uint64(0)
            total += np.uint64(lowers[code]) * power
            power *= base
            continue
        if inside:
            words[num_words], inside = total, False
            num_words += 1
        if kind == 2:
            words[num_words], firsts[num_words] = np.uint64(lowers[code]), place
            num_words += 1
    if inside:
        words[num_words] = total
        num_words += 1
    return num_words
