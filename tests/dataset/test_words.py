"""Words that are encoded once give the ids of the library, whatever the text."""

import gzip
import itertools
import json
import logging
import random
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, pre_tokenizers

from pipelines.dataset.examples import words
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.examples.words import GPT2, ID_BYTES, LLAMA3, WordEncoder
from pipelines.dataset.tokenizer import from_json, train_bpe
from tests.dataset.styles import gpt2_style

DATA = Path(__file__).parents[2] / "data"
CHARS = 2_000
"""Of a text."""
each_expression = pytest.mark.parametrize("expression", [GPT2, LLAMA3], ids=["gpt2", "llama3"])


def cut_texts(content: str) -> list[str]:
    return [content[place : place + CHARS] for place in range(0, len(content), CHARS)]


def read_english() -> list[str]:
    book = min((DATA / "gutenberg_en").rglob("*.gz"), key=lambda file: file.name)
    return cut_texts(gzip.decompress(book.read_bytes()).decode()[: 100 * CHARS])


def read_chinese() -> list[str]:
    with gzip.open(DATA / "web_chinese" / "wikipedia.jsonl.gz", "rt", encoding="utf-8") as lines:
        content = "\n".join(json.loads(next(lines))["text"] for _ in range(100))
    return cut_texts(re.sub("[\U00010000-\U0010ffff]", "", content)[: 50 * CHARS])


def trained_on(texts: list[str], expression: str = GPT2):
    """A tokenizer that the stage would train, or one of Llama 3's kind."""
    tokenizer = train_bpe(iter(texts), vocab_size=2_000)
    if expression != GPT2:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(expression), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return from_json(tokenizer.to_str())


def library_ids(tokenizer, texts: list[str]) -> list[list[int]]:
    return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]


def ids_of(pieces: list[bytes]) -> list[list[int]]:
    return [np.frombuffer(piece, np.int32).tolist() for piece in pieces]


class Counted:
    """A tokenizer's model that counts the words it encodes."""

    def __init__(self, model) -> None:
        self._model, self.num_words = model, 0

    def tokenize(self, word: str):
        self.num_words += 1
        return self._model.tokenize(word)


def count_words(encoder: WordEncoder) -> Counted:
    encoder._model = counted = Counted(encoder._model)
    return counted


@each_expression
@pytest.mark.parametrize("read", [read_english, read_chinese])
def test_real_texts_have_the_ids_of_the_library(read, expression, monkeypatch):
    monkeypatch.setattr(words, "MAX_NEW_FRACTION", 1.0)  # Chinese too is cut into words
    texts = read()
    tokenizer = trained_on(texts, expression)
    encoder = WordEncoder(tokenizer)
    monkeypatch.setattr(encoder, "_encode_whole", lambda whole: [b""] * len(whole))
    assert ids_of(encoder.encode(texts)) == library_ids(tokenizer, texts)


@each_expression
def test_every_character_is_cut_as_by_the_library(expression, monkeypatch):
    monkeypatch.setattr(words, "MAX_NEW_FRACTION", 1.0)
    tokenizer = trained_on(["it's the card"], expression)
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    texts = [
        "".join(f"a{each}b {each}1{each} \n" for each in characters[at : at + 64])
        for at in range(0, len(characters), 64)
    ]
    encoder = WordEncoder(tokenizer)
    monkeypatch.setattr(encoder, "_encode_whole", lambda whole: [b""] * len(whole))
    assert ids_of(encoder.encode(texts)) == library_ids(tokenizer, texts)


@each_expression
def test_random_mixtures_have_the_ids_of_the_library(expression):
    choose = random.Random(7)
    parts = [
        "'s",
        "'S",
        "'\u017f",
        "'re",
        "'LL",
        "'",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\u00a0",
        "\u3000",
        "12345",
    ]
    parts += [
        "\u0664",
        "a",
        "Word",
        "\u00e9",
        "e\u0301",
        "\u4f60\u597d",
        "\uff01",
        "...",
        "-",
        "\x00",
        "\x1c",
    ]
    parts += ["\x85", "\u2028", "\U0001f600", "\U00020000"]
    texts = ["".join(choose.choices(parts, k=choose.randrange(30))) for _ in range(3_000)]
    tokenizer = trained_on(texts[:100], expression)
    encoder = WordEncoder(tokenizer)
    model = count_words(encoder)
    assert ids_of(encoder.encode(texts)) == library_ids(tokenizer, texts)
    assert model.num_words > 500


def test_a_word_is_encoded_once():
    texts = read_english()
    encoder = WordEncoder(trained_on(texts))
    model = count_words(encoder)
    first = encoder.encode(texts)
    num_different = model.num_words
    assert 1_000 < num_different < sum(len(text.split()) for text in texts) / 4
    assert encoder.encode(texts[::-1]) == first[::-1]
    assert model.num_words == num_different


def test_the_memory_of_words_is_bounded(monkeypatch):
    texts = read_english()
    tokenizer = trained_on(texts)
    encoder = WordEncoder(tokenizer)
    monkeypatch.setattr(words, "KNOWN_BYTES", 100_000)
    monkeypatch.setattr(words, "MAX_NEW_FRACTION", 1.0)
    sizes = []
    for text in texts:
        assert ids_of(encoder.encode([text])) == library_ids(tokenizer, [text])
        sizes.append(len(encoder._known))
    assert max(sizes) < 1_500  # 180 bytes each, and the words of one text
    assert sum(later < before for before, later in itertools.pairwise(sizes)) > 3


def test_words_that_hardly_repeat_are_left_to_the_library():
    texts = read_chinese()
    tokenizer = trained_on(texts)
    encoder = WordEncoder(tokenizer)
    model = count_words(encoder)
    assert ids_of(encoder.encode(texts)) == library_ids(tokenizer, texts)
    assert model.num_words == words.MAX_LEARNED
    assert encoder.keeps_words


def test_words_of_short_texts_are_learned_from_batch_to_batch(monkeypatch):
    """Each batch alone has too many new words."""
    texts = [text[place : place + 40] for text in read_english() for place in range(0, CHARS, 40)]
    tokenizer = trained_on(texts)
    encoder, whole = WordEncoder(tokenizer), list[int]()
    encode_whole = encoder._encode_whole
    monkeypatch.setattr(encoder, "_encode_whole", lambda left: whole.append(len(left)) or encode_whole(left))
    for start in range(0, len(texts), 100):
        batch = texts[start : start + 100]
        assert ids_of(encoder.encode(batch)) == library_ids(tokenizer, batch)
    assert whole[0] == 100
    assert not any(whole[-10:])


def test_an_added_token_in_a_text_is_found():
    tokenizer = gpt2_style()
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    tokenizer.encode_special_tokens = True
    texts = ["the card <tool> was stolen", *["the card was stolen"] * 50]
    pieces = WordEncoder(tokenizer).encode(texts)
    assert tokenizer.token_to_id("<tool>") in ids_of(pieces)[0]
    assert ids_of(pieces) == library_ids(tokenizer, texts)


def test_special_tokens_are_left_to_a_library_that_looks_for_them():
    tokenizer = gpt2_style()
    assert not tokenizer.encode_special_tokens
    texts = ["the card<|endoftext|>", *["the card was stolen"] * 50]
    assert ids_of(WordEncoder(tokenizer).encode(texts)) == library_ids(tokenizer, texts)


def test_a_library_that_cuts_in_another_way_encodes_every_text(monkeypatch, caplog):
    present = r"\p{L}+|\s+|[^\s\p{L}]+"  # as if a release had changed its expression
    monkeypatch.setattr(words, "GPT2", present)
    monkeypatch.setattr(words, "PATTERNS", {present})
    texts = ["the card was stolen in 2024", "the card"]
    tokenizer = trained_on(texts)
    with caplog.at_level(logging.WARNING):
        encoder = WordEncoder(tokenizer)
    assert "cuts words in another way than" in caplog.text
    assert not encoder.keeps_words
    assert ids_of(encoder.encode(texts)) == library_ids(tokenizer, texts)


def test_other_expressions_are_left_to_the_library():
    texts = ["the card was stolen"]
    tokenizer = trained_on(texts, r"\p{L}+|[^\p{L}]+")
    encoder = WordEncoder(tokenizer)
    assert not encoder.keeps_words
    assert ids_of(encoder.encode(texts)) == library_ids(tokenizer, texts)


def test_the_stage_keeps_words_and_has_the_offsets_of_the_library():
    texts = read_english()[:50]
    tokenizer = trained_on(texts)
    encoder = TextEncoder(tokenizer)
    assert encoder._words.keeps_words
    for text, encoded in zip(texts, encoder.encode(texts), strict=True):
        expected = tokenizer.encode(text)
        assert encoded.input_ids.tolist() == expected.ids
        assert encoded.char_start.tolist()[:-1] == [start for start, _ in expected.offsets[:-1]]


def test_an_id_has_its_bytes():
    tokenizer = trained_on(["a"])
    (piece,) = WordEncoder(tokenizer).encode(["a"])
    assert len(piece) == ID_BYTES
