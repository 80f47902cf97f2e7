"""Hashes of shingles -> MinHash -> one bucket per band.

K permutations of 32-bit values: a * h + b modulo 2**32 with odd a, where h is the upper half of the hash of a
shingle. The smallest value depends on the upper bits, so the weak low bits of a multiplication do no harm. A
bucket is a 64-bit hash of the band's number and its values. Only buckets are kept: 8 bytes per band.

Cost: 0.5 to 1.5 ns per shingle and permutation in NumPy, 0.1 ns compiled (`kernels.py`). Memory: K * 4 kB,
whatever the length of a text is.

Source: Broder 1997 (MinHash); Leskovec, Rajaraman and Ullman 2014, section 3.4 (bands).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np
import numpy.typing as npt

from pipelines.corpus.neardup.kernels import find_kernels
from pipelines.corpus.neardup.mixing import Hashes, draw_constants, finalise
from pipelines.corpus.neardup.presets import Banding
from pipelines.corpus.neardup.shingles import HASH_VERSION, hash_shingles

_CHUNK_SHINGLES = 1024
_BATCH_TEXTS = 64
"""Texts whose buckets are computed together."""
_LARGEST = np.uint32(2**32 - 1)


@dataclass(frozen=True, slots=True)
class Signature:
    """What is kept of a text."""

    num_shingles: int
    """With repetitions; 0 = fewer words than a shingle has."""
    buckets: npt.NDArray[np.int64] | None
    """(num_bands,); None without shingles: such a text is no near duplicate of anything."""


def describe_scheme(banding: Banding, seed: int) -> str:
    """Everything that the buckets depend on besides the text. Buckets of two schemes are never compared."""
    shape = f"{banding.ngram}gram-{banding.num_bands}x{banding.rows_per_band}"
    return f"affine32-1/{HASH_VERSION}/{shape}/seed{seed}"


def sign(texts: Iterable[str], banding: Banding, seed: int) -> Iterator[Signature]:
    """The signature of each text, in order. Reads texts as they are needed."""
    return sign_shingles(hash_shingles(texts, banding.ngram), banding, seed)


def sign_shingles(sets: Iterable[Hashes], banding: Banding, seed: int) -> Iterator[Signature]:
    """The signature of each array of hashes of shingles."""
    smallest, left = _Smallest(banding.num_hashes, seed), iter(sets)
    while some := [(len(each), smallest.compute(each)) for each in islice(left, _BATCH_TEXTS)]:
        buckets = find_buckets(np.array([values for _, values in some]), banding)
        for (num_shingles, _), found in zip(some, buckets, strict=True):
            yield Signature(num_shingles, found if num_shingles else None)


def find_buckets(values_TK: npt.NDArray[np.uint32], banding: Banding) -> npt.NDArray[np.int64]:
    """The buckets of each row of MinHash values, one per band. T = texts, K = permutations."""
    weights, offsets = _bucket_constants(banding.num_bands, banding.rows_per_band)
    values_TBR = values_TK.reshape(len(values_TK), banding.num_bands, banding.rows_per_band)
    sums_TB = (values_TBR * weights).sum(axis=2, dtype=np.uint64) + offsets
    return finalise(sums_TB).view(np.int64)


@cache
def _bucket_constants(num_bands: int, rows_per_band: int) -> tuple[Hashes, Hashes]:
    return (draw_constants(0, "bucket", rows_per_band) | np.uint64(1), draw_constants(0, "band", num_bands))


class _Smallest:
    """The smallest value of each permutation, with a buffer that is used again."""

    def __init__(self, num_hashes: int, seed: int) -> None:
        factors = draw_constants(seed, "factor", num_hashes) >> np.uint64(32)
        offsets = draw_constants(seed, "offset", num_hashes) >> np.uint64(32)
        self._factors = (factors.astype(np.uint32) | np.uint32(1))[:, np.newaxis]
        self._offsets = offsets.astype(np.uint32)[:, np.newaxis]
        self._buffer = np.empty(num_hashes * _CHUNK_SHINGLES, np.uint32)

    def compute(self, shingles: Hashes) -> npt.NDArray[np.uint32]:
        """(num_hashes,) of one text; the largest number without shingles."""
        num_hashes = len(self._factors)
        smallest = np.full(num_hashes, _LARGEST)
        if (kernels := find_kernels()) is not None:
            kernels.smallest_values(shingles, self._factors[:, 0], self._offsets[:, 0], smallest)
            return smallest
        upper = (shingles >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(upper), _CHUNK_SHINGLES):
            some = upper[start : start + _CHUNK_SHINGLES]
            values_KS = self._buffer[: num_hashes * len(some)].reshape(num_hashes, len(some))
            np.multiply(self._factors, some, out=values_KS)
            values_KS += self._offsets
            np.minimum(smallest, values_KS.min(axis=1), out=smallest)
        return smallest
