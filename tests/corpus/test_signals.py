"""Signals against a twin in plain Python, and single cases worked out by hand."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from pipelines.corpus.signals import table
from pipelines.corpus.signals.batch import Batch, Pieces, hash_word
from pipelines.corpus.signals.names import SIGNALS
from pipelines.corpus.signals.table import compute_signals
from pipelines.corpus.signals.words import split_tokens, split_words
from pipelines.tables import SIGNALS as TABLE
from tests.corpus.signals_twin import measure, tokens_of, words_of

DATA = Path(__file__).parents[2] / "data"
PROSE = """Mr. Smith's well-known cat didn't sit, e.g. on U.S. mats... It's 3.14 or 1,000, ok?
"Yes!" he said. [1]

• one two three four five six
• one two three four five six
- see www.example.com/a?b=c#d

我的银行卡还没有到，怎么办？台灣的銀行在 2026 年。
We use cookies and JavaScript { } here. Lorem ipsum dolor sit amet."""
PIECES = """
    the cat of sat on mat and with to be it's don't A.M. Mr. 1,000 3.14 # … ... -- - • * [1] [edit] { } 我的
    银行卡。 中文abc ４５ ภาษา カタカナ é İstanbul 😀 x_y a/b a:b e.g. U.S. a.B " ' ’s javascript ?! 。 . ,
    {. 的 在 是 好” 。” ” ！ 」 。。。 [edit]
"""
ALPHABET = [
    *PIECES.split(),
    *("lorem ipsum", "privacy policy", "use cookies", "\u0301", "\u200b"),
    *("\n", "\n", "\n\n", "\n \n", "\t", "  ", "\u3000", "\u2028"),
]


def make_texts(num_texts, seed):
    """Random texts; few different pieces, so that lines and n-grams repeat."""
    draw = random.Random(seed)
    texts = []
    for _ in range(num_texts):
        pieces = draw.sample(ALPHABET, draw.choice([3, 6, 12, len(ALPHABET)]))
        joined = (draw.choice(pieces) + draw.choice(["", " ", " ", " "]) for _ in range(draw.randint(0, 90)))
        text = "".join(joined)
        texts.append((text + draw.choice(["", "", f"\n{text}"])).strip())
    return texts


@pytest.mark.parametrize("seed", range(6))
def test_signals_equal_those_of_the_twin(seed):
    texts = [*make_texts(40, seed), PROSE, ""]
    for text, row in zip(texts, compute_signals(texts), strict=True):
        expected = measure(text)
        assert list(expected) == list(SIGNALS)
        pairs = dict(zip(SIGNALS, zip(row.tolist(), expected.values(), strict=True), strict=True))
        assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == {}, text


def test_random_texts_reach_every_signal():
    found = compute_signals([text for seed in range(6) for text in make_texts(40, seed)])
    constant = [name for name, column in zip(SIGNALS, found.T, strict=True) if len(set(column.tolist())) < 2]
    assert constant == []


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("He said: don't.", ["He", "said", ":", "do", "n't", "."]),
        ("It's John's", ["It", "'s", "John", "'s"]),
        ("well-known and/or 3.14, 1,000", ["well", "-", "known", "and", "/", "or", "3.14", ",", "1,000"]),
        ("Mr. J. Doe of the U.S. left.", ["Mr.", "J.", "Doe", "of", "the", "U.S.", "left", "."]),
        ("Wait... what?!", ["Wait", "...", "what", "?", "!"]),
        ("end.Then", ["end", ".", "Then"]),
        ("我的银行卡还没有到，怎么办？", ["我", "的", "银行卡", "还", "没有", "到", "，", "怎么办", "？"]),
        ("用Spark3处理", ["用", "Spark3", "处理"]),
    ],
)
def test_tokens_are_words_without_marks(text, tokens):
    assert cut(text, split_tokens) == tokens
    assert tokens_of(text) == tokens


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("He said: don't.", ["He", "said:", "don't."]),
        ("我的银行卡还没有到，怎么办？", ["我", "的", "银行卡", "还", "没有", "到，", "怎么办？"]),
        ("", []),
    ],
)
def test_words_keep_their_marks(text, words):
    assert cut(text, split_words) == words
    assert words_of(text) == words


def cut(text, split):
    pieces = split(Batch([text]))
    return [text[start:end] for start, end in zip(pieces.start, pieces.end, strict=True)]


def test_signals_do_not_depend_on_the_batch(monkeypatch):
    texts = [*make_texts(40, 99), PROSE]
    alone = np.concatenate([compute_signals([text]) for text in texts])
    assert np.array_equal(compute_signals(texts), alone)
    assert np.array_equal(compute_signals(texts[::-1])[::-1], alone)
    monkeypatch.setattr(table, "_BATCH_CHARS", 500)
    assert np.array_equal(compute_signals(texts), alone)


def test_only_the_asked_signals_are_given():
    every = dict(zip(SIGNALS, compute_signals([PROSE])[0], strict=True))
    asked = ("short_line_fraction", "num_tokens")
    assert compute_signals([PROSE], asked).tolist() == [[every[name] for name in asked]]


def test_a_long_text_is_measured_by_its_beginning(monkeypatch):
    monkeypatch.setattr(table, "MAX_CHARS", 8)
    assert compute_signals(["one two three"], ["num_words"]).tolist() == [[2.0]]
    monkeypatch.setattr(table, "MAX_CHARS", 13)
    assert compute_signals(["one two three"], ["num_words"]).tolist() == [[3.0]]


def test_hash_depends_on_the_string_alone():
    batch = Batch(["ab ab", "ab ba"])
    place = np.array([0, 3, 6, 9])
    pieces = Pieces(start=place, end=place + 2, document=np.array([0, 0, 1, 1]))
    hashes = batch.hash(pieces)
    assert hashes[0] == hashes[1] == hashes[2] == hash_word("ab")
    assert hashes[3] == hash_word("ba") != hash_word("ab")
    within = batch.hash_within(pieces)
    assert within[0] == within[1] != within[2]


def test_the_table_has_a_column_per_signal(spark):
    assert TABLE.schema.names == ["doc_id", "language", "language_score", *SIGNALS]


def test_both_scripts_of_chinese_have_about_as_many_words():
    # 1,004 sentences that say the same. The dictionary is made for simplified Chinese, so words of the other
    # script may be cut otherwise.
    with gzip.open(DATA / "chinese" / "sib200.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    num_words = {
        language: compute_signals(
            [row["text"] for row in rows if row["language"] == language], ["num_words"]
        ).sum()
        for language in ("zh-Hans", "zh-Hant", "en")
    }
    assert abs(num_words["zh-Hant"] / num_words["zh-Hans"] - 1) < 0.01
    assert num_words["en"] == sum(len(row["text"].split()) for row in rows if row["language"] == "en")
