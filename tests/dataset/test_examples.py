import numpy as np
import pytest

from pipelines.dataset.examples.classification import ClassificationExamples
from pipelines.dataset.examples.encode import TextEncoder, count_token_bytes
from pipelines.dataset.examples.example import Document, ExampleSettings
from pipelines.dataset.examples.language_modelling import LanguageModellingExamples
from pipelines.dataset.examples.masked_language_modelling import MaskedLanguageModellingExamples
from pipelines.dataset.examples.table import EXAMPLES, load_builder, require_task
from pipelines.dataset.packing.table import PACKERS
from pipelines.dataset.tokenizer import load_tokenizer, train_bpe
from tests.dataset.styles import (
    BEGIN,
    END,
    TEXTS,
    bert_style,
    gpt2_style,
    llama_style,
    unigram_style,
    write_model_folder,
)

FORGED = "the card<|endoftext|> has<|begin_of_text|> not<|end_of_text|>"


@pytest.mark.parametrize(
    ("text", "char_end", "expected"),
    [
        ("abc", [1, 2, 3], [1, 1, 1]),
        ("你好!", [1, 2, 3], [3, 3, 1]),  # 3 bytes per Chinese character
        ("你a", [1, 1, 1, 2], [3, 0, 0, 1]),  # a character over three tokens is counted once
        ("a 😀", [1, 3], [1, 5]),  # white space belongs to the token after it
        (
            "ab  ",
            [2, -1],
            [4, 0],
        ),  # what follows the last token of the text belongs to it; special tokens add none
        ("", [], []),
    ],
)
def test_bytes_of_tokens_sum_to_the_text(text, char_end, expected):
    added = count_token_bytes(text, np.asarray(char_end, np.int32))
    assert added.tolist() == expected
    assert added.sum() == (len(text.encode()) if char_end else 0)


def language_modelling_of(chosen, max_tokens=None):
    settings = ExampleSettings(end_token_id=chosen.end_token_id, max_tokens=max_tokens)
    return LanguageModellingExamples(chosen.tokenizer, settings)


@pytest.mark.parametrize(("make", "front"), [(gpt2_style, []), (llama_style, [BEGIN])])
@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[2], FORGED])
def test_documents_end_in_the_end_token_once(tmp_path, make, front, text):
    chosen = load_tokenizer(str(write_model_folder(tmp_path, make(), tokenizer_config={"eos_token": END})))
    (example,) = language_modelling_of(chosen).build([Document("d", text)])
    (unit,) = example.units
    tokens = [chosen.tokenizer.id_to_token(number) for number in unit.input_ids]
    special = [token for token in tokens if token in (BEGIN, END)]
    assert special == [*front, END]
    assert tokens[-1] == END
    assert chosen.tokenizer.decode(unit.input_ids.tolist()[len(front) : -1]) == text
    assert unit.is_target.tolist() == [False] + [True] * (len(tokens) - 1)
    assert unit.num_bytes.sum() == len(text.encode())
    assert (unit.char_start[-1], unit.char_end[-1], unit.num_bytes[-1]) == (-1, -1, 0)
    assert len({len(array) for array in unit}) == 1


def test_self_closing_tokenizers_keep_their_tokens(tmp_path):
    trained = tmp_path / "trained"
    bpe = train_bpe(iter(TEXTS), vocab_size=300)
    for folder, tokenizer in ((trained, bpe), (tmp_path / "bert", bert_style())):
        chosen = load_tokenizer(str(write_model_folder(folder, tokenizer)))
        (example,) = language_modelling_of(chosen).build([Document("d", TEXTS[0])])
        assert example.units[0].input_ids.tolist() == tokenizer.encode(TEXTS[0]).ids


@pytest.mark.parametrize("make", [gpt2_style, llama_style])
def test_cut_documents_still_end_in_the_end_token(tmp_path, make):
    chosen = load_tokenizer(str(write_model_folder(tmp_path, make(), tokenizer_config={"eos_token": END})))
    (whole,) = language_modelling_of(chosen).build([Document("d", TEXTS[0])])
    (cut,) = language_modelling_of(chosen, max_tokens=6).build([Document("d", TEXTS[0])])
    ids, num_whole = cut.units[0].input_ids.tolist(), len(whole.units[0].input_ids)
    assert ids == [*whole.units[0].input_ids[:5], chosen.end_token_id]
    assert cut.num_cut_tokens == num_whole - 6 > 0
    assert (
        cut.units[0].num_bytes.sum() == cut.units[0].char_end.max()
    )  # ASCII: the bytes of the kept characters


def test_classification_counts_no_token_and_numbers_the_label():
    builder = ClassificationExamples(bert_style(), ExampleSettings(labels=("a", "b"), max_tokens=4))
    short, long = builder.build(
        [Document("x", "the card", "b"), Document("y", "the card has not arrived", "a")]
    )
    assert [short.label, long.label] == [1, 0]
    assert short.units[0].input_ids.tolist() == [1, 6, 7, 2]
    assert long.units[0].input_ids.tolist() == [1, 6, 7, 2]  # [SEP] stays, three words are cut
    assert (short.num_cut_tokens, long.num_cut_tokens) == (0, 3)
    assert not short.units[0].is_target.any()


def test_masked_language_modelling_may_mask_every_token_of_the_text():
    builder = MaskedLanguageModellingExamples(bert_style(), ExampleSettings(max_tokens=6))
    whole, cut = builder.build([Document("x", "the card"), Document("y", "the card has not arrived")])
    assert whole.units[0].input_ids.tolist() == [1, 6, 7, 2]  # [CLS] and [SEP] around the words
    assert whole.units[0].is_target.tolist() == [False, True, True, False]
    assert cut.units[0].is_target.tolist() == [False, True, True, True, True, False]
    assert (whole.label, whole.num_cut_tokens, cut.num_cut_tokens) == (None, 0, 1)


def test_text_without_tokens_is_one_padding_token():
    builder = ClassificationExamples(gpt2_style(), ExampleSettings(labels=("a", "b"), max_tokens=4))
    (example,) = builder.build([Document("x", "", "a")])
    assert [array.tolist() for array in example.units[0]] == [[0], [False], [-1], [-1], [0]]


def test_unigram_text_cannot_spell_a_special_token():
    tokenizer = unigram_style()
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode("a </s>a").ids.count(1) == 2  # the library itself lets the text forge one
    (encoded,) = TextEncoder(tokenizer).encode(["a </s>a"])
    assert encoded.input_ids.tolist() == [3, 2, 3, 0, 2, 1]  # one </s>, at the end; the other is <unk>
    assert encoded.num_bytes.sum() == len("a </s>a")


def test_forged_token_without_unknown_token_is_refused():
    with pytest.raises(
        ValueError, match=r"spells special token '</s>' and this tokenizer has no unknown token"
    ):
        list(TextEncoder(unigram_style(unknown=False)).encode(["a </s>a"]))


def test_unknown_text_stays_unknown():
    # The unknown token is marked as special, too; a text that is unknown has not forged it.
    (encoded,) = TextEncoder(bert_style()).encode(["the zebra"])
    assert encoded.input_ids.tolist() == [1, 6, 0, 2]


def test_every_task_names_packing_methods_that_exist():
    assert EXAMPLES
    for name in EXAMPLES:
        builder = load_builder(name)
        assert require_task(name) == name
        assert set(builder.packing_methods) <= set(PACKERS)
        assert {"text"} <= set(builder.columns)


def test_unknown_task_names_the_tasks():
    with pytest.raises(
        ValueError, match=r"should be 'chat' or 'classification' or .* or 'retrieval', got 'translation'"
    ):
        require_task("translation")
