"""The tokenizer with which a report estimates tokens: whose it is, and what it counts."""

from dataclasses import replace

import pytest

from pipelines.dataset.token_counter import TRAINED, find_counter, make_counter
from pipelines.dataset.tokenizer import END_OF_TEXT, tokenizer_fingerprint, train_bpe, write_tokenizer
from pipelines.pin import Pin

TEXTS = ["the river and the sea", "河流", f"it ends{END_OF_TEXT} not here", ""]
DOCUMENTS = Pin(
    table="documents",
    path="/documents",
    table_id="d",
    version=4,
    digest="e" * 32,
    num_rows=2,
    fingerprint="f" * 32,
    facts={},
)


@pytest.fixture
def trained():
    return train_bpe(iter(TEXTS), vocab_size=300)


@pytest.fixture
def sequences(trained, tmp_path):
    """A pin of sequences of DOCUMENTS, with their tokenizer in tmp_path."""
    facts = {"tokenizer": write_tokenizer(trained, str(tmp_path)), "documents": DOCUMENTS.identity()}
    return replace(DOCUMENTS, table="sequences", path="/sequences", facts=facts)


@pytest.fixture
def base(tmp_path):
    """A model folder with another tokenizer: 260 tokens."""
    folder = tmp_path / "base"
    folder.mkdir()
    train_bpe(iter(["nothing"]), vocab_size=260).save(str(folder / "tokenizer.json"))
    return str(folder)


def test_a_text_has_the_tokens_that_stand_for_it(trained):
    counter = make_counter(trained, "mine")
    # The twin: one text at a time, and a special token in a text is characters.
    trained.encode_special_tokens = True
    ids = [trained.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert counter.count(TEXTS) == [len(own) for own in ids]
    assert trained.token_to_id(END_OF_TEXT) not in ids[2]
    assert counter.num_around == 1  # END_OF_TEXT behind every text
    assert counter.count([]) == []


def test_sequences_of_these_documents_come_first(sequences, base, trained, tmp_path):
    counter = find_counter(base, DOCUMENTS, sequences, str(tmp_path))
    assert counter.name == f"tokenizer of table sequences ({tokenizer_fingerprint(trained)[:12]})"
    assert counter.count(TEXTS) == make_counter(trained, "").count(TEXTS)


def test_a_base_comes_before_sequences_of_other_documents(sequences, base, tmp_path):
    others = replace(DOCUMENTS, version=5)
    assert find_counter(base, others, sequences, str(tmp_path)).name == f"tokenizer of {base}"
    assert find_counter(base, others, None, str(tmp_path)).name == f"tokenizer of {base}"
    assert find_counter(None, others, sequences, str(tmp_path)).name.startswith("tokenizer of table seq")


def test_a_tokenizer_that_is_missing_is_named(sequences, tmp_path):
    assert find_counter(None, DOCUMENTS, None, str(tmp_path)) == TRAINED
    gone = find_counter(None, DOCUMENTS, sequences, f"{tmp_path}/elsewhere")
    assert gone.startswith("Tokens are not known: their tokenizer could not be read (no tokenizer ")
    assert f"{tmp_path}/nowhere" in find_counter(f"{tmp_path}/nowhere", DOCUMENTS, None, str(tmp_path))
