"""Tokens of a corpus, estimated from a sample: against numbers by hand, and against all texts."""

import random

from pipelines.corpus.report.content import Amount
from pipelines.corpus.report.tokens import (
    FEWEST,
    MAX_TEXTS,
    MOST,
    TEXT_CHARS,
    SampledText,
    TokenCounter,
    choose_cells,
    count_tokens,
    estimate_tokens,
)

WORDS = TokenCounter("words", lambda texts: [len(text.split()) for text in texts])


def test_tokens_are_those_of_the_sample_times_characters():
    outcomes = {("a", None): Amount(10, 1_000), ("a", "language"): Amount(4, 600), ("b", None): Amount(1, 90)}
    sample = [
        SampledText(("a", None), 100, "x " * 50),  # 0.5 tokens a character
        SampledText(("a", "language"), 20, "xxxxxxxxx " * 2),  # 0.1
        SampledText(("b", None), 90, "xx " * 30),  # a third
    ]
    assert estimate_tokens(outcomes, sample, WORDS) == {
        ("a", None): 500,
        ("a", "language"): 60,
        ("b", None): 30,
    }


def test_a_text_counts_by_all_its_characters():
    # 1,000 characters at 0.5 and 100 at 0.1: 510 tokens of 1,100 characters, though both beginnings are 10.
    sample = [SampledText(("a", None), 1_000, "x " * 5), SampledText(("a", None), 100, "xxxxxxxxx ")]
    assert estimate_tokens({("a", None): Amount(20, 11_000)}, sample, WORDS) == {("a", None): 5_100}


def test_a_cell_without_a_sample_is_like_its_reason():
    sample = [SampledText(("a", "short"), 10, "x " * 5), SampledText(("a", None), 100, "xxxxxxxxx " * 10)]
    outcomes = {("b", "short"): Amount(1, 100), ("b", "long"): Amount(1, 1_100)}
    # long: 15 tokens of 110 characters, those of the whole sample.
    assert estimate_tokens(outcomes, sample, WORDS) == {("b", "short"): 50, ("b", "long"): 150}


def test_tokens_around_a_text_are_added_once_a_document():
    counter = TokenCounter("words", WORDS.count, num_around=2)
    outcomes = {("a", None): Amount(7, 100), ("a", "empty"): Amount(9, 0)}
    sample = [SampledText(("a", None), 10, "x " * 5)]
    assert estimate_tokens(outcomes, sample, counter) == {("a", None): 50 + 14, ("a", "empty"): 0}


def test_the_estimate_is_near_the_tokens_of_all_texts():
    # A brute-force twin: words of 20,000 texts, with a beginning that is like the rest of its text.
    draw = random.Random(3)
    texts = [
        " ".join("x" * size for _ in range(draw.randint(50, 2_000)))
        for size in (draw.randint(1, 9) for _ in range(2_000))
    ]
    outcomes = {("a", None): Amount(len(texts), sum(map(len, texts)))}
    sample = [SampledText(("a", None), len(text), text[:TEXT_CHARS]) for text in draw.sample(texts, MOST)]
    exact = sum(len(text.split()) for text in texts)
    found = estimate_tokens(outcomes, sample, WORDS)["a", None]
    assert abs(found / exact - 1) < 0.1
    assert sum(len(text) > TEXT_CHARS for text in texts) > 500  # so most are cut


def test_the_sample_does_not_grow_with_sources():
    def choose(num_sources):
        return choose_cells({(f"s{n:05}", None): Amount(1_000, n + 1) for n in range(num_sources)})

    assert set(choose(3).values()) == {MOST}
    for number in (50, 1_000):
        chosen = choose(number)
        assert sum(chosen.values()) <= MAX_TEXTS
        assert min(chosen.values()) >= FEWEST
    assert ("s00999", None) in choose(1_000)  # the cells with most characters
    assert ("s00000", None) not in choose(1_000)
    assert choose_cells({("a", "empty"): Amount(5, 0)}) == {}


def test_exact_tokens_stand_for_estimates():
    outcomes = {("a", None): Amount(1, 100), ("b", None): Amount(1, 10), ("a", "short"): Amount(1, 50)}
    sample = [SampledText(("a", None), 10, "x " * 5)]
    counts = count_tokens(outcomes, sample, WORDS, {None: 58, "b": 6})
    found = [counts.count(None), counts.count(None, "a"), counts.count(None, "b"), counts.count("short")]
    assert [(each.number, each.is_exact) for each in found] == [
        (58, True),
        (50, False),
        (6, True),
        (25, False),
    ]


def test_no_documents_have_no_tokens():
    assert count_tokens({}, [], WORDS, {}).count(None).number == 0
