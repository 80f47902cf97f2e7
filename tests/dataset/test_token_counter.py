"""The tokenizer with which a report estimates tokens: whose it is, and what it counts."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models

from pipelines.corpus.report.content import Amount
from pipelines.corpus.report.tokens import SampledText, count_tokens
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
    assert gone.startswith("Tokens are not known: their tokenizer cannot be used (no tokenizer ")
    assert f"{tmp_path}/nowhere" in find_counter(f"{tmp_path}/nowhere", DOCUMENTS, None, str(tmp_path))


def test_a_broken_tokenizer_is_named(sequences, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    why = find_counter(str(tmp_path), DOCUMENTS, None, "")
    assert why.startswith(f"Tokens are not known: their tokenizer cannot be used ({tmp_path}/tokenizer.json ")
    kept = tmp_path / f"{sequences.facts['tokenizer']}.json"
    kept.write_text("{}")
    assert f"{kept} is no tokenizer" in find_counter(None, DOCUMENTS, sequences, str(tmp_path))


def test_a_tokenizer_without_a_token_for_some_text_is_named(tmp_path):
    def save(*words):
        vocabulary = {word: number for number, word in enumerate(words)}
        Tokenizer(models.WordLevel(vocabulary)).save(str(tmp_path / "tokenizer.json"))
        return find_counter(str(tmp_path), DOCUMENTS, None, "")

    expected = "Tokens are not known: their tokenizer cannot be used (tokenizer of "
    assert save("b").startswith(expected)  # what stands around a text is found with the text "a"
    counter = save("a", "b")
    assert counter.count(["a", "b"]) == [1, 1]
    sample = [SampledText(("web", None), 1, text) for text in "ac"]
    why = count_tokens({("web", None): Amount(2, 2)}, sample, counter, {})
    assert why.startswith(expected)
    assert "cannot encode a text" in why
    assert "choose another corpus.report_tokenizer" in why
