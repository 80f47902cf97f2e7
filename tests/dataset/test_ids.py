"""Tokens of byte-level tokenizers: the ids and characters of the library, whatever makes them."""

import json
import logging
import random
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

from pipelines.dataset.examples import gigatoken, ids
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.examples.gigatoken import FastEncoder
from pipelines.dataset.examples.ids import IdEncoder
from pipelines.dataset.examples.probes import ODD, list_probes
from pipelines.dataset.tokenizer import from_json, train_bpe
from tests.dataset.styles import gpt2_style, unigram_style
from tests.dataset.texts import KINDS, read_chinese, read_english
from tests.processes import CHECKOUT

WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
EXPRESSIONS = {
    "gpt2": None,  # the library's ByteLevel brings it along
    "llama3": WORDS + SPACES,
    "qwen2": WORDS.replace("{1,3}", "") + SPACES,
    "own": r"\p{L}+|[^\p{L}]+",
}
FAST = ("gpt2", "llama3", "qwen2")


def trained(expression: str, texts: list[str] | None = None, **parts):
    """A tokenizer that the stage would train, with another expression that cuts words."""
    tokenizer = train_bpe(iter(texts or [*read_english()[:20], *read_chinese()[:20]]), vocab_size=2_000)
    if EXPRESSIONS[expression]:
        split = pre_tokenizers.Split(Regex(EXPRESSIONS[expression]), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return from_json(tokenizer.to_str())


def library_ids(tokenizer, texts: list[str]) -> list[list[int]]:
    return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]


def ids_of(tokenizer, texts: list[str]) -> list[list[int]]:
    return [piece.tolist() for piece in IdEncoder(tokenizer).encode(texts)]


@pytest.fixture
def fast():
    """Skips where gigatoken is missing."""
    pytest.importorskip("gigatoken", reason="gigatoken is missing: pip install distributary[fast]")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_real_texts_have_ids_and_characters_of_the_library(kind, expression):
    texts, tokenizer = KINDS[kind](), trained(expression)
    assert sum(map(len, texts)) > 50_000
    encoder = TextEncoder(from_json(tokenizer.to_str()))
    for text, encoded in zip(texts, encoder.encode(texts), strict=True):
        expected = tokenizer.encode(text)  # its last token ends the text
        assert encoded.input_ids.tolist() == expected.ids
        assert encoded.char_start.tolist()[:-1] == [start for start, _ in expected.offsets[:-1]]
        assert encoded.char_end.tolist()[:-1] == [end for _, end in expected.offsets[:-1]]
        assert encoded.num_bytes.sum() == len(text.encode())


@pytest.mark.parametrize("expression", FAST)
def test_known_expressions_are_encoded_by_gigatoken(fast, expression):
    assert IdEncoder(trained(expression)).description == f"gigatoken {version('gigatoken')}"


@pytest.mark.parametrize("expression", FAST)
def test_every_character_has_the_ids_of_the_library(fast, expression):
    tokenizer = trained(expression)
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = [
        "".join(f"a{each}b {each}1{each} \n{each}'{each}" for each in characters[at : at + 64])
        for at in range(0, 0x20000, 64)  # what lies above is ideographs, or not assigned
    ]
    fast_encoder = FastEncoder(tokenizer)
    assert [fast_encoder.encode(text).tolist() for text in texts] == library_ids(tokenizer, texts)


@pytest.mark.parametrize("expression", FAST)
def test_random_mixtures_have_the_ids_of_the_library(fast, expression):
    choose, tokenizer = random.Random(7), trained(expression)
    texts = ["".join(choose.choices(ODD, k=choose.randrange(30))) for _ in range(3_000)]
    fast_encoder = FastEncoder(tokenizer)
    assert [fast_encoder.encode(text).tolist() for text in texts] == library_ids(tokenizer, texts)


@pytest.mark.parametrize(
    "text", ["a" * 300_000, " " * 300_000, "\x00" * 50_000, "的" * 100_000, "ab1" * 99_999]
)
def test_endless_words_have_the_ids_of_the_library(text):
    tokenizer = trained("gpt2")
    assert ids_of(tokenizer, [text]) == library_ids(tokenizer, [text])


def test_a_text_cannot_spell_a_special_token(fast):
    tokenizer = trained("gpt2")
    text = "a <|end_of_text|> of <|pad|><|end_of_text|>"
    (found,) = ids_of(tokenizer, [text])
    assert not {tokenizer.token_to_id("<|end_of_text|>"), tokenizer.token_to_id("<|pad|>")} & set(found)
    assert tokenizer.decode(found, skip_special_tokens=False) == text


@pytest.mark.parametrize("special", [False, True])
def test_added_tokens_that_the_library_looks_for_are_found(fast, special):
    tokenizer = gpt2_style()
    tokenizer.add_tokens([AddedToken("<tool>", special=special, normalized=False)])
    assert not tokenizer.encode_special_tokens
    texts = ["the card <tool> was stolen", "the card was stolen"]
    encoder = IdEncoder(tokenizer)
    assert encoder.description.startswith("gigatoken")
    found = [piece.tolist() for piece in encoder.encode(texts)]
    assert tokenizer.token_to_id("<tool>") in found[0]
    assert found == library_ids(tokenizer, texts)


def test_texts_that_nfc_changes_take_the_library(fast):
    """As Qwen does."""
    tokenizer = trained("qwen2", normalizer=normalizers.NFC())
    texts = ["caf\u00e9 \u4f60\u597d", "cafe\u0301", "\u212b", "a\u0301\u0323", "\ud55c"]
    encoder = IdEncoder(tokenizer)
    assert encoder.description.startswith("gigatoken")
    assert encoder.find_normal(texts).tolist() == [True, False, False, False, True]
    assert [piece.tolist() for piece in encoder.encode(texts)] == library_ids(tokenizer, texts)


def test_a_tokenizer_for_which_gigatoken_is_wrong_takes_the_library(fast, caplog):
    """Without an expression, the library encodes a text as one word; gigatoken 0.10 cuts it as GPT-2 does."""
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = trained("gpt2", pre_tokenizer=whole)
    texts = read_english()[:5]
    assert [FastEncoder(tokenizer).encode(text).tolist() for text in texts] != library_ids(tokenizer, texts)
    with caplog.at_level(logging.WARNING):
        encoder = IdEncoder(tokenizer)
    assert "tokens are made by tokenizers" in caplog.text
    assert "gigatoken gives other ids for" in encoder.description
    assert [piece.tolist() for piece in encoder.encode(texts)] == library_ids(tokenizer, texts)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(lambda: trained("own"), "does not know this kind of tokenizer"), (unigram_style, "with offsets")],
)
def test_the_description_says_why_the_library_encodes(fast, make, reason):
    description = TextEncoder(make()).description
    assert description.startswith("tokenizers ")
    assert reason in description


def test_without_gigatoken_the_library_encodes(monkeypatch):
    def refuse(tokenizer):
        raise ImportError("No module named 'gigatoken'")

    monkeypatch.setattr(ids, "FastEncoder", refuse)
    tokenizer, texts = trained("gpt2"), read_english()[:5]
    encoder = IdEncoder(tokenizer)
    assert "pip install distributary[fast]" in encoder.description
    assert [piece.tolist() for piece in encoder.encode(texts)] == library_ids(tokenizer, texts)


LETTERS = str.maketrans("0123456789", "ghijklmnop")


def test_one_process_compares_a_tokenizer_once(fast, monkeypatch):
    compared = list[object]()
    monkeypatch.setattr(ids, "_equal", set())
    monkeypatch.setattr(ids, "list_probes", lambda tokenizer: compared.append(tokenizer) or ["a"])
    for tokenizer in (trained("gpt2"), trained("gpt2"), trained("llama3"), trained("llama3")):
        IdEncoder(tokenizer)
    assert len(compared) == 2


class Wrong:
    """An encoder that differs from the library from some text on."""

    def __init__(self, encoder: FastEncoder, num_right: int) -> None:
        self._encoder, self._num_right = encoder, num_right

    def encode(self, text: str) -> np.ndarray:
        self._num_right -= 1
        found = self._encoder.encode(text)
        return found if self._num_right >= 0 else found[::-1]


def encode_again(encoder: IdEncoder, texts: list[str]) -> None:
    for _ in range(20):
        encoder.encode(texts)


def test_a_later_difference_stops_the_stage(fast):
    tokenizer, texts = trained("gpt2"), read_english()
    encoder = IdEncoder(tokenizer)
    encoder._fast = Wrong(encoder._fast, num_right=150)
    encoder.encode(texts)
    with pytest.raises(RuntimeError, match=r"other token ids than tokenizers .* uninstall gigatoken"):
        encode_again(encoder, texts)


def test_a_share_of_the_texts_is_checked_for_ever(fast, monkeypatch):
    texts, seen = read_english(), list[str]()
    encoder = IdEncoder(trained("gpt2"))
    encode = encoder._encode_by_library
    monkeypatch.setattr(encoder, "_encode_by_library", lambda whole: seen.extend(whole) or encode(whole))
    for _ in range(30):
        encoder.encode(texts)
    share = sum(map(len, seen)) / (30 * sum(map(len, texts)))
    assert 1 / 300 < share < 1 / 200
    assert len(set(seen)) > 5


class Panic(BaseException):
    """As pyo3 raises it for a panic of Rust."""


def test_a_panic_leaves_the_texts_to_the_library(fast, caplog):
    class Panicking:
        def encode(self, text: str) -> np.ndarray:
            raise Panic("index out of bounds")

    tokenizer, texts = trained("gpt2"), read_english()[:3]
    encoder = IdEncoder(tokenizer)
    encoder._fast._encoder = Panicking()
    assert [piece.tolist() for piece in encoder.encode(texts)] == library_ids(tokenizer, texts)
    assert "fails at a text (index out of bounds)" in encoder.description


def count_made(encoder: FastEncoder, monkeypatch) -> list[None]:
    """One entry for each time that an encoder is made again."""
    made, make = list[None](), encoder._make
    monkeypatch.setattr(encoder, "_make", lambda: made.append(make()))
    return made


def test_an_encoder_that_grew_too_much_is_made_again(fast, monkeypatch):
    monkeypatch.setattr(gigatoken, "WATCHED_CHARS", 10_000)
    held = [0]
    monkeypatch.setattr(gigatoken, "read_memory", lambda: held[0])
    encoder = FastEncoder(trained("gpt2"))
    made = count_made(encoder, monkeypatch)
    for text in read_english()[:40]:
        held[0] += gigatoken.MAX_GROWTH_BYTES // 30  # per text; a look every 6 texts
        encoder.encode(text)
    assert len(made) == 1


NEW_WORDS = """
import random
from pipelines.dataset.examples import gigatoken
from tests.dataset.test_ids import LETTERS, trained

gigatoken.WATCHED_CHARS, gigatoken.MAX_GROWTH_BYTES = 200_000, 16 * 2**20
choose, encoder, made = random.Random(1), gigatoken.FastEncoder(trained("gpt2")), []
make = encoder._make
encoder._make = lambda: made.append(make())
start, most = gigatoken.read_memory(), 0
for _ in range(60):
    words = " ".join(f"{choose.getrandbits(40):x}" for _ in range(10_000))
    encoder.encode(words.translate(LETTERS))
    most = max(most, gigatoken.read_memory() - start)
print(start, len(made), most)
"""


def test_the_memory_of_words_that_never_repeat_is_bounded(fast):
    # In a new process: in one that has freed memory, new memory does not show.
    done = subprocess.run(
        [sys.executable, "-c", NEW_WORDS], capture_output=True, text=True, cwd=CHECKOUT, check=True
    )
    start, num_made, most = map(int, done.stdout.split())
    assert start > 0
    assert num_made > 1
    assert most < 64 * 2**20  # without a bound: 80 MB


def test_probes_hold_every_special_token_and_the_vocabulary():
    tokenizer = trained("gpt2")
    probes = list_probes(tokenizer)
    assert {"", "<|end_of_text|>", "<|pad|>", *ODD} <= set(probes)
    assert probes == list_probes(tokenizer)
    used = {number for each in library_ids(tokenizer, probes) for number in each}
    assert len(used) > 0.8 * tokenizer.get_vocab_size()


def test_settings_for_gigatoken_have_no_added_token():
    settings = json.loads(gigatoken.read_settings(trained("qwen2", normalizer=normalizers.NFC())))
    assert settings["added_tokens"] == []
    assert settings["normalizer"] is None
    assert settings["model"]["type"] == "BPE"
