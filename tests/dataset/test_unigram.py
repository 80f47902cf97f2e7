"""Unigram tokenizers over bytes that are trained on texts."""

import random
import sys

import numpy as np
import pytest
from tokenizers import models

from pipelines.dataset.examples.byte_level import UNKNOWN, find_byte_lengths
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.tokenizer import (
    END_OF_TEXT,
    PAD,
    from_json,
    identify_tokenizer,
    tokenizer_fingerprint,
    train_unigram,
    wrap_trained,
)
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from tests.dataset.styles import unigram_style
from tests.dataset.texts import KINDS, read_chinese, read_code, read_english

VOCAB_SIZE = 600
ODD = [
    "",
    "\x00",
    "<0x0A><0x41>",
    "\U0001f469\u200d\U0001f467 \u0915\u094d",
    "\ufeff\r\n\t  z",
    "Ġ Ċ ▁",
    "x" * 5_000,
]


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("sentencepiece", reason="sentencepiece is missing: pip install distributary[unigram]")
    texts = [*read_english()[:10], *read_chinese()[:10]]
    return train_unigram(iter(texts), vocab_size=VOCAB_SIZE)


def test_equal_texts_in_any_order_give_the_same_fingerprint(tokenizer):
    texts = [*read_english()[:10], *read_chinese()[:10]]
    random.Random(3).shuffle(texts)
    again = train_unigram(iter(texts), vocab_size=VOCAB_SIZE)
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)
    other = train_unigram(iter(texts[1:]), vocab_size=VOCAB_SIZE)
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)


def test_the_vocabulary_has_its_size_and_pieces_of_both_languages(tokenizer):
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    pieces = tokenizer.decode_batch([[number] for number in range(VOCAB_SIZE - 2)])
    assert {" the", "ing", "的", "，"} <= set(pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_is_restored_and_nothing_is_unknown(tokenizer, kind):
    """Code was not among the texts of the training."""
    texts = [*KINDS[kind]()[:20], *ODD, f"a {END_OF_TEXT}{PAD} b", bytes(range(256)).decode("latin-1")]
    end = tokenizer.token_to_id(END_OF_TEXT)
    for text in texts:
        *ids, last = tokenizer.encode(text).ids
        assert last == end
        assert not {end, tokenizer.token_to_id(PAD)} & set(ids)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_ids_and_characters_are_those_of_the_library(tokenizer):
    texts = [*read_english()[10:20], *read_chinese()[10:20], *read_code()[:10], *ODD]
    encoder = TextEncoder(from_json(tokenizer.to_str()))
    assert not encoder.needs_offsets
    for text, encoded in zip(texts, encoder.encode(texts), strict=True):
        expected = tokenizer.encode(text)
        assert encoded.input_ids.tolist() == expected.ids
        spans = np.stack([encoded.char_start, encoded.char_end], axis=1)[:-1].tolist()
        assert [tuple(span) for span in spans] == expected.offsets[:-1]


def test_long_words_are_left_out_and_few_texts_give_few_pieces(tokenizer):
    small = train_unigram(iter(["the card", "y" * 10_000] * 50), vocab_size=VOCAB_SIZE)
    assert 258 < small.get_vocab_size() < VOCAB_SIZE
    assert wrap_trained(small).end_token_id == small.token_to_id(END_OF_TEXT)
    assert len(small.encode("the").ids) < 4  # one less than the letters and the end
    assert "yy" not in small.get_vocab()


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size must be at least 258"):
        train_unigram(iter(["a"]), vocab_size=257)


def test_without_sentencepiece_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"pip install distributary\[unigram\]"):
        train_unigram(iter(["a"]), vocab_size=300)


def test_tables_of_bpe_keep_their_identity():
    """The model is part of it only where it is not BPE, the only one once."""
    identities = [
        identify_tokenizer(TokenizerChoice(model=model), is_chat=False)["tokenizer"]
        for model in ("bpe", "unigram")
    ]
    assert identities[0] == {"base": None, "vocab_size": 8192, "max_bytes": 100_000_000}
    assert identities[1] == {**identities[0], "model": "unigram"}


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="model must be bpe or unigram, got 'wordpiece'"):
        TokenizerChoice(model="wordpiece")


def test_a_token_for_what_is_unknown_has_no_length(tokenizer):
    """A published tokenizer over bytes may lack some, and "<unk>" is five characters of the alphabet."""
    cut = from_json(tokenizer.to_str())
    cut.model = models.Unigram([("<unk>", -20.0), ("a", -1.0)], unk_id=0)
    assert find_byte_lengths(cut)[:2].tolist() == [UNKNOWN, 1]
    (encoded,) = TextEncoder(cut, is_framed=False).encode(["abcdefa"])
    assert (encoded.char_start.tolist(), encoded.char_end.tolist()) == ([0, 1, 6], [1, 6, 7])
    assert find_byte_lengths(unigram_style()) is None
