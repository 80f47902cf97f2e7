"""Encoding without the library's offsets gives what the library itself says."""

import random

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

from pipelines.dataset.examples.byte_level import find_byte_lengths
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.tokenizer import from_json, train_bpe
from tests.dataset.styles import BEGIN, END, TEXTS, bert_style, gpt2_style, llama_style, unigram_style

BALANCED = "\u2126\u2126 b\u0344"
"""NFC makes two bytes of three, twice, and then four of two: other characters, as many bytes."""
PIECES = ["a", "the card", "  ", "\n", "é", "e\u0301", "你好", " 我的卡", "😀", "👩‍👩‍👧", "\x00", "ﬁ", "1234"]
FORGED = [END, BEGIN, "<|end_of_text|>", "<|pad|>", "<tool>"]


def random_texts(seed: int, num_texts: int = 200) -> list[str]:
    choose = random.Random(seed)
    return [
        "".join(choose.choice(PIECES + FORGED) for _ in range(choose.randrange(20))) for _ in range(num_texts)
    ] + ["", BALANCED]


def trained_style():
    return train_bpe(iter(TEXTS), vocab_size=300)


def qwen_style():
    """A regular expression cuts the words, and one added token is not special: a text can hold it."""
    tokenizer = gpt2_style()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|\p{L}+|\s+|[^\s\p{L}\d]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return tokenizer


def greedy_style():
    """An added token takes the white space before it, so its bytes are not fixed."""
    tokenizer = gpt2_style()
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False, lstrip=True)])
    return tokenizer


def removing_style():
    """The pre-tokenizer drops line breaks: the tokens do not cover the text."""
    tokenizer = gpt2_style()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def composing_style():
    """Letters and their marks become one character, as in Qwen."""
    tokenizer = gpt2_style()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def expected_arrays(tokenizer, text: str) -> list[list[int]]:
    """ids, character starts and ends by the library; -1 for the special tokens that it adds itself."""
    encoding = tokenizer.encode(text)
    own = encoding.special_tokens_mask
    spans = [(-1, -1) if mine else span for span, mine in zip(encoding.offsets, own, strict=True)]
    return [encoding.ids, [start for start, _ in spans], [end for _, end in spans]]


@pytest.mark.parametrize(
    "make",
    [trained_style, gpt2_style, llama_style, qwen_style, greedy_style, removing_style, composing_style],
)
def test_places_equal_those_of_the_library(make):
    texts, encoder = random_texts(seed=1), TextEncoder(from_json(make().to_str()))
    assert not encoder.needs_offsets
    library = from_json(make().to_str())
    for text, encoded in zip(texts, encoder.encode(texts), strict=True):
        ids, starts, ends = expected_arrays(library, text)
        assert encoded.input_ids.tolist() == ids
        assert encoded.char_start.tolist() == starts
        assert encoded.char_end.tolist() == ends
        # Every byte once. Where a pre-tokenizer removes the whole text, no token can count it.
        assert encoded.num_bytes.sum() == (len(text.encode()) if max(ends, default=-1) > 0 else 0)


@pytest.mark.parametrize("max_tokens", [3, 8])
@pytest.mark.parametrize("make", [trained_style, llama_style])
def test_cut_texts_are_the_beginnings_of_whole_ones(make, max_tokens):
    texts = random_texts(seed=2)
    tokenizers = [from_json(make().to_str()) for _ in range(2)]
    cut_ones = TextEncoder(tokenizers[0], max_tokens=max_tokens).encode(texts)
    num_cut = 0
    for whole, cut in zip(TextEncoder(tokenizers[1]).encode(texts), cut_ones, strict=True):
        is_text = whole.char_end >= 0
        num_text = int((cut.char_end >= 0).sum())
        assert len(cut.input_ids) == min(len(whole.input_ids), max_tokens)
        assert cut.num_cut_tokens == len(whole.input_ids) - len(cut.input_ids)
        for name in ("input_ids", "char_start", "char_end", "num_bytes"):
            inside, outside = getattr(cut, name), getattr(whole, name)
            assert np.array_equal(inside[cut.char_end >= 0], outside[is_text][:num_text])
            assert np.array_equal(inside[cut.char_end < 0], outside[~is_text])
        num_cut += cut.num_cut_tokens
    assert num_cut > 1000


def test_only_texts_that_need_it_take_the_slow_way(monkeypatch):
    taken = []
    encoder = TextEncoder(removing_style())
    slow = encoder._encode_with_offsets
    monkeypatch.setattr(encoder, "_encode_with_offsets", lambda texts: taken.extend(texts) or slow(texts))
    encoded = list(encoder.encode(["the card", "the\ncard", "has not"]))
    assert taken == ["the\ncard"]
    assert [each.char_end.max() for each in encoded] == [8, 8, 7]


def changed(**parts):
    tokenizer = gpt2_style()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        changed(normalizer=normalizers.NFKC()),
        changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        changed(post_processor=processors.ByteLevel(trim_offsets=True)),
        changed(pre_tokenizer=pre_tokenizers.Whitespace()),
        bert_style(),
        unigram_style(),
    ],
)
def test_other_tokenizers_keep_the_offsets_of_the_library(tokenizer):
    assert find_byte_lengths(tokenizer) is None
    assert TextEncoder(tokenizer).needs_offsets


def test_lengths_are_bytes_and_special_tokens_have_none():
    tokenizer = qwen_style()
    lengths = find_byte_lengths(tokenizer)
    assert lengths[tokenizer.token_to_id(END)] == -1
    assert lengths[tokenizer.token_to_id("<tool>")] == len("<tool>")
    (byte,) = tokenizer.encode("x").ids
    assert lengths[byte] == 1
