"""The loops that Numba compiles: they give what NumPy gives, compiled and as plain Python."""

import random
import sys

import numpy as np
import pytest

from pipelines.corpus.neardup import kernels
from pipelines.corpus.neardup.minhash import sign
from pipelines.corpus.neardup.presets import PRESETS
from pipelines.corpus.neardup.shingles import _LOWERED_IN_CONTEXT, CHUNK_CHARS, hash_shingles
from tests.corpus.neardup.test_minhash import TEXTS, random_text

DRAW = random.Random(5)
MANY = [
    *TEXTS,
    *("ΟΔΟΣ ΣΑΣ Σ, ΑΣ'", "İSTANBUL İ ı I", "ÀÉÎÕÜ ßẞ ǅ Ⅷ Ⓐ K", "ends with a word", "字", "字a字", " ", "-"),
    *("".join(chr(DRAW.choice((DRAW.randrange(0x2000), 32, 0x4E00))) for _ in range(300)) for _ in range(40)),
    "é" + "x" * (CHUNK_CHARS + 7) + " É " + random_text(DRAW, 9_000),
]


@pytest.fixture(params=["compiled", "python"])
def loops(request, monkeypatch):
    """The loops do the work from the first text on."""
    if request.param == "compiled" and not kernels.HAS_NUMBA:
        pytest.skip("Numba is missing: pip install distributary[fast]")
    monkeypatch.setattr(kernels, "_seen_chars", kernels.PATIENCE_CHARS + 1)
    if request.param == "python":
        plain = kernels.Kernels(kernels.hash_words, kernels.smallest_values)
        monkeypatch.setattr(kernels, "compile_kernels", lambda: plain)
    with np.errstate(over="ignore"):
        yield


@pytest.fixture
def by_numpy(monkeypatch):
    """What NumPy makes of the texts: hashes of shingles, and signatures."""
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_seen_chars", -(2**60))
        return compute_all()


def compute_all():
    hashes = [each.tolist() for ngram in (1, 3) for each in hash_shingles(MANY, ngram)]
    signed = [(each.num_shingles, each.buckets) for each in sign(MANY[:40], PRESETS["sensitive"], 7)]
    return hashes, [(count, None if found is None else found.tolist()) for count, found in signed]


def test_loops_give_the_hashes_of_numpy(by_numpy, loops):
    assert kernels.find_kernels() is not None
    assert compute_all() == by_numpy
    assert sum(map(len, by_numpy[0])) > 20_000


def test_first_texts_are_left_to_numpy(monkeypatch):
    # Compiling takes seconds, which a small corpus would not win back.
    monkeypatch.setattr(kernels, "_seen_chars", kernels.PATIENCE_CHARS - 40)
    monkeypatch.setattr(kernels, "compile_kernels", lambda: "compiled")
    list(hash_shingles(["thirty characters and one more "], 1))
    assert kernels.find_kernels() is None
    kernels.count_chars(10)
    assert kernels.find_kernels() == "compiled"


def test_lower_case_depends_on_the_neighbours_of_one_letter_only():
    letters = map(chr, range(sys.maxunicode + 1))
    found = [c for c in letters if len(c.lower()) > 1 or f"a{c}".lower() != f"a{c.lower()}"]
    assert tuple(found) == _LOWERED_IN_CONTEXT
