"""Shingles and MinHash below Spark. Twins in plain Python: words by a regular expression, sets of tuples."""

import operator
import random
import re
import tracemalloc

import numpy as np
import pytest

from pipelines.corpus.neardup.minhash import describe_scheme, sign, sign_shingles
from pipelines.corpus.neardup.mixing import draw_constants
from pipelines.corpus.neardup.presets import PRESETS, Banding, NearDuplicates
from pipelines.corpus.neardup.shingles import CHUNK_CHARS, HASH_VERSION, compute_jaccard, hash_shingles

TEXTS = [
    "The quick brown fox, the QUICK brown fox!",
    "a_b 12 é naïve STRASSE ǅ",
    "我的银行卡还没有到，怎么办？",
    "mixed 中文 and English 混合text",
    "",
    "?! ...",
    "one",
    "नमस्ते दुनिया",
    "𠮷野家で食べる",
]


def find_words(text):
    """Twin: runs of letters, digits, '_' and marks; Han and kana stand alone."""
    alone = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
    return re.findall(rf"[{alone}]|(?:(?![{alone}])[\w\u0900-\u0903\u093a-\u094d])+", text.lower())


def find_tuples(text, ngram):
    words = find_words(text)
    return [tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)]


def exact_jaccard(one, other):
    return len(one & other) / len(one | other)


def random_text(draw, num_words, vocabulary=300):
    return " ".join(f"w{draw.randrange(vocabulary)}" for _ in range(num_words))


@pytest.mark.parametrize("ngram", [1, 2, 5])
def test_equal_shingles_have_equal_hashes_and_others_differ(ngram):
    draw = random.Random(1)
    texts = TEXTS + [random_text(draw, draw.randrange(40)) for _ in range(200)]
    hash_of = {}
    for text, hashes in zip(texts, hash_shingles(texts, ngram), strict=True):
        tuples = find_tuples(text, ngram)
        assert len(tuples) == len(hashes), text
        for words, value in zip(tuples, hashes.tolist(), strict=True):
            assert hash_of.setdefault(words, value) == value
    assert len(set(hash_of.values())) == len(hash_of) > 250


def test_hashes_do_not_depend_on_neighbours_or_chunks():
    draw = random.Random(2)
    long = random_text(draw, CHUNK_CHARS) + " 字" * 5 + "x" * (2 * CHUNK_CHARS)
    texts = ["short text of five words", long, "", long[: CHUNK_CHARS + 3], *TEXTS]
    together = [hashes.tolist() for hashes in hash_shingles(texts, 3)]
    alone = [next(hash_shingles([text], 3)).tolist() for text in texts]
    assert together == alone
    assert len(together[1]) > CHUNK_CHARS


def test_words_of_a_long_text_are_not_cut_at_chunks():
    words = [f"word{number}" for number in range(20_000)]
    (long,) = hash_shingles([" ".join(words)], 1)
    single = [next(hash_shingles([word], 1))[0] for word in words[::97]]
    assert len(long) == 20_000
    assert long[::97].tolist() == single


def test_case_punctuation_and_white_space_do_not_count():
    one, other = hash_shingles(["It's GREAT -- isn't it?", "it s\n\tgreat: isn“t” it"], 2)
    assert one.tolist() == other.tolist()
    assert len(one) == 5


def test_exact_jaccard_equals_the_one_of_tuples():
    draw = random.Random(3)
    texts = [random_text(draw, draw.randrange(3, 60), vocabulary=6) for _ in range(60)]
    sets = [np.unique(hashes) for hashes in hash_shingles(texts, 2)]
    found = [compute_jaccard(a, b) for a in sets for b in sets]
    tuples = [set(find_tuples(text, 2)) for text in texts]
    assert found == [exact_jaccard(a, b) for a in tuples for b in tuples]
    assert 0 < min(value for value in found if value) < 0.2 < max(found) == 1
    assert compute_jaccard(sets[0], sets[0][:0]) == 0 == compute_jaccard(sets[0][:0], sets[0])


def plant_pair(draw, similarity, size=150):
    """Two sets of `size` hashes with exactly this Jaccard similarity (to the nearest whole element)."""
    num_common = round(2 * size * similarity / (1 + similarity))
    values = draw.integers(0, 2**64, 2 * size - num_common, np.uint64)
    return values[:size], np.concatenate([values[:num_common], values[size:]])


@pytest.mark.parametrize(
    ("preset", "similarities"),
    [
        ("fineweb", (0.5, 0.65, 0.72, 0.8, 0.9)),
        ("sensitive", (0.3, 0.45, 0.55, 0.65, 0.8)),
        ("data_juicer", (0.6, 0.68, 0.73, 0.8, 0.9)),
    ],
)
def test_hit_rate_of_planted_pairs_follows_the_formula(preset, similarities):
    """2,000 pairs each. One standard error is at most 0.011."""
    banding, draw = PRESETS[preset], np.random.default_rng(7)
    for similarity in similarities:
        pairs = [plant_pair(draw, similarity) for _ in range(2_000)]
        exact = np.mean([exact_jaccard(set(a.tolist()), set(b.tolist())) for a, b in pairs[:5]])
        ones = sign_shingles((a for a, _ in pairs), banding, 1)
        others = sign_shingles((b for _, b in pairs), banding, 1)
        hits = [bool((a.buckets == b.buckets).any()) for a, b in zip(ones, others, strict=True)]
        assert np.mean(hits) == pytest.approx(
            1 - (1 - exact**banding.rows_per_band) ** banding.num_bands, abs=0.02
        )


def test_hit_rate_holds_for_texts_with_structure():
    """Numbered lines have similar shingles: the hashes must not let them share small values."""
    banding, draw, hits, exact = Banding(ngram=2, num_bands=20, rows_per_band=5), random.Random(5), [], []
    for _ in range(1_000):
        first = draw.randrange(10**6)
        lines = [f"line {number}" for number in range(first, first + 60)]
        changed = [line if draw.random() < 0.75 else line + "0" for line in lines]
        texts = [" ".join(lines), " ".join(changed)]
        one, other = sign(texts, banding, 1)
        hits.append(bool((one.buckets == other.buckets).any()))
        similarity = exact_jaccard(*(set(find_tuples(text, 2)) for text in texts))
        exact.append(1 - (1 - similarity**5) ** 20)
    assert np.mean(hits) == pytest.approx(np.mean(exact), abs=0.03)
    assert 0.3 < np.mean(exact) < 0.9


def test_texts_below_one_shingle_have_no_signature():
    short, exact = sign(["four words are few", "five words are just enough"], PRESETS["fineweb"], 1)
    assert (short.num_shingles, short.buckets) == (0, None)
    assert (exact.num_shingles, exact.buckets.shape) == (1, (14,))


def test_memory_of_signatures_does_not_grow_with_text():
    (shingles,) = hash_shingles([" ".join(map(str, range(400_000)))], 5)
    list(sign_shingles([shingles[:10]], PRESETS["fineweb"], 1))
    tracemalloc.start()
    list(sign_shingles([shingles], PRESETS["fineweb"], 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All values at once would be 400,000 * 112 * 4 bytes = 179 MB.
    assert peak < 12e6


MASK = 2**64 - 1


def mix(value):
    """Twin of fmix64, from MurmurHash3's definition."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = ((value ^ (value >> 33)) * factor) & MASK
    return value ^ (value >> 33)


def find_buckets_slowly(text, banding, seed):
    """Twin: the definitions of shingles.py and minhash.py in whole numbers of Python."""

    def draw(seed, name, count):
        return [int(value) for value in draw_constants(seed, name, count)]

    base = draw(0, f"{HASH_VERSION} character", 1)[0] | 1
    words = [
        mix(sum(ord(char) * base**place for place, char in enumerate(word)) & MASK)
        for word in find_words(text)
    ]
    weights = [value | 1 for value in draw(0, f"{HASH_VERSION} shingle", banding.ngram)]
    shingles = [
        mix(sum(map(operator.mul, words[start:], weights)) & MASK)
        for start in range(len(words) - banding.ngram + 1)
    ]
    factors, offsets = (draw(seed, name, banding.num_hashes) for name in ("factor", "offset"))
    values = [
        min(((factor >> 32 | 1) * (shingle >> 32) + (offset >> 32)) % 2**32 for shingle in shingles)
        for factor, offset in zip(factors, offsets, strict=True)
    ]
    in_band = [value | 1 for value in draw(0, "bucket", banding.rows_per_band)]
    buckets = []
    for band, start in enumerate(draw(0, "band", banding.num_bands)):
        rows = values[band * banding.rows_per_band :]
        bucket = mix((start + sum(map(operator.mul, rows, in_band))) & MASK)
        buckets.append(bucket - 2**64 if bucket >= 2**63 else bucket)
    return buckets


@pytest.mark.parametrize("text", ["five words are just enough", "我的银行卡还没有到，怎么办？", "a b " * 700])
def test_buckets_equal_a_twin_in_plain_python(text):
    banding = Banding(ngram=3, num_bands=2, rows_per_band=4)
    (signature,) = sign([text], banding, 9)
    assert signature.buckets.tolist() == find_buckets_slowly(text, banding, 9)


def test_scheme_names_what_the_buckets_depend_on():
    base = Banding(ngram=5, num_bands=14, rows_per_band=8)
    others = [
        Banding(ngram=4, num_bands=14, rows_per_band=8),
        Banding(ngram=5, num_bands=8, rows_per_band=14),
    ]
    schemes = {describe_scheme(base, 1), describe_scheme(base, 2), *(describe_scheme(b, 1) for b in others)}
    assert len(schemes) == 4
    assert re.fullmatch(r"affine32-1/words1-unicode[\d.]+/5gram-14x8/seed1", describe_scheme(base, 1))


@pytest.mark.parametrize(
    ("preset", "similarity", "published"),
    [
        ("fineweb", 0.8, 0.924),
        ("data_juicer", 0.8, 0.942),
        ("refinedweb", 0.75, 0.761),
        ("redpajama_0.8", 0.8, 0.399),
    ],
)
def test_find_probability_equals_published_figures(preset, similarity, published):
    assert PRESETS[preset].find_probability(similarity) == pytest.approx(published, abs=0.0006)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"preset": "gopher"}, "preset must be one of sensitive, fineweb, .*, got gopher"),
        ({"min_jaccard": 0.0}, "min_jaccard must be above 0 and at most 1, got 0.0"),
        ({"min_jaccard": 1.01}, "at most 1, got 1.01"),
        ({"max_source_loss": -0.1}, "max_source_loss must be from 0 to 1, got -0.1"),
        ({"survivor": "best"}, "survivor must be one of longest, shortest, smallest_id, got best"),
        ({"scope": "world"}, "scope must be one of corpus, source, file, got world"),
        ({"max_leaders": 0}, "max_leaders must be at least 1, got 0"),
        ({"drop_from": ("dev",)}, "drop_from must be among train, validation, test, got dev"),
    ],
)
def test_invalid_parameters_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        NearDuplicates(**knobs)
