import pytest

from pipelines.dataset.end_token import find_closing_token, find_end_token
from pipelines.dataset.examples.encode import closes_texts
from pipelines.dataset.hub import Base
from pipelines.dataset.tokenizer import load_tokenizer
from tests.dataset.styles import BEGIN, END, bert_style, gpt2_style, llama_style, write_model_folder

AS_TEXT, AS_ENTRY = {"eos_token": END}, {"eos_token": {"content": END, "lstrip": False}}


@pytest.mark.parametrize("make", [gpt2_style, llama_style])
@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": AS_TEXT},
        {"tokenizer_config": AS_ENTRY},
        {"tokenizer_config": {"eos_token": None}, "special_tokens_map": AS_ENTRY},
        # BOS's number there: the tokenizer's own file goes before the model's.
        {"tokenizer_config": AS_TEXT, "generation_config": {"eos_token_id": 7}},
    ],
)
def test_end_token_is_read_from_tokenizer_files(tmp_path, make, files):
    tokenizer = make()
    base = Base(str(write_model_folder(tmp_path, tokenizer, **files)))
    assert find_end_token(tokenizer, base) == tokenizer.token_to_id(END)


@pytest.mark.parametrize("number", [1, [1, 7]])
@pytest.mark.parametrize("file", ["generation_config", "config"])
def test_end_token_is_read_from_model_files(tmp_path, file, number):
    base = Base(str(write_model_folder(tmp_path, llama_style(), **{file: {"eos_token_id": number}})))
    assert find_end_token(llama_style(), base) == 1 == llama_style().token_to_id(END)


def test_closing_special_token_is_the_end_without_files(tmp_path):
    base = Base(str(write_model_folder(tmp_path, bert_style())))
    assert find_end_token(bert_style(), base) == bert_style().token_to_id("[SEP]")


@pytest.mark.parametrize("make", [gpt2_style, llama_style])
def test_tokenizer_without_end_token_names_the_remedy(tmp_path, make):
    chosen = load_tokenizer(str(write_model_folder(tmp_path, make(), tokenizer_config={})))
    assert chosen.end_token_id is None
    with pytest.raises(
        ValueError, match=rf"{tmp_path} names none; set eos_token in a tokenizer_config\.json"
    ):
        chosen.require_end_token("language_modelling")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": {"eos_token": "</s>"}}, r"tokenizer_config\.json names '</s>' as end of text"),
        ({"config": {"eos_token_id": 999_999}}, r"config\.json names 999999 as end of text"),
    ],
)
def test_end_token_outside_the_vocabulary_is_refused(tmp_path, files, message):
    chosen = load_tokenizer(str(write_model_folder(tmp_path, gpt2_style(), **files)))  # fit for a classifier
    with pytest.raises(ValueError, match=message):
        chosen.require_end_token("language_modelling")


def test_broken_json_beside_a_tokenizer_is_named(tmp_path):
    folder = write_model_folder(tmp_path, gpt2_style())
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not valid JSON"):
        load_tokenizer(str(folder)).require_end_token("language_modelling")


def test_only_a_token_behind_the_text_closes_it():
    begin, end = (llama_style().token_to_id(name) for name in (BEGIN, END))
    assert find_closing_token(llama_style()) is None  # encode("") would show BOS as the last token
    assert not closes_texts(llama_style(), begin)
    assert not closes_texts(llama_style(), end)
    assert closes_texts(bert_style(), 2)


def test_unmarked_end_token_cannot_be_written_in_a_text(tmp_path):
    tokenizer = gpt2_style()
    tokenizer.add_tokens(["<END>"])  # an added token that its author did not mark as special
    end = tokenizer.token_to_id("<END>")
    tokenizer.encode_special_tokens = True
    assert end in tokenizer.encode("a<END>").ids  # what must not happen
    folder = write_model_folder(tmp_path, tokenizer, tokenizer_config={"eos_token": "<END>"})
    loaded = load_tokenizer(str(folder))
    assert loaded.end_token_id == end
    assert end not in loaded.tokenizer.encode("a<END>").ids
