"""64-bit mixing in NumPy: constants from a seed, and a finaliser.

Pure integer arithmetic modulo 2**64: the values are the same on every machine.

Source: Steele, Lea and Flood 2014 (SplitMix64, constants of its reference implementation); Appleby 2011
(fmix64 of MurmurHash3).
"""

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def draw_constants(seed: int, name: str, count: int) -> Hashes:
    """`count` constants, the same for equal seed and name. Another name gives independent ones."""
    state = seed & _MASK
    for byte in name.encode():
        state = _next((state ^ byte) & _MASK)
    values = []
    for _ in range(count):
        state = (state + _GOLDEN) & _MASK
        values.append(_next(state))
    return np.array(values, np.uint64)


def finalise(hashes: Hashes) -> Hashes:
    """fmix64, in place: every bit of the result depends on every bit of the hash. A one-to-one function."""
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xFF51AFD7ED558CCD)
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xC4CEB9FE1A85EC53)
    hashes ^= hashes >> np.uint64(33)
    return hashes


def _next(state: int) -> int:
    mixed = (state + _GOLDEN) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
