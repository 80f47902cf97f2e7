"""Tokens as text: every token once, in order, and what cannot be shown as text by its name."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipelines.dataset.report.decoding import MAX_SPLIT, PieceDecoder
from pipelines.dataset.report.samples import SAMPLE_TOKENS, find_window, make_sample
from pipelines.dataset.tokenizer import train_bpe
from tests.dataset.styles import END, bert_style, byte_level_bpe, gpt2_style, llama_style

TEXT = "the card 我的卡 wasn't 龘 here\n\n\tnow \U0001f600 é"


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("style", [gpt2_style, llama_style])
def test_pieces_spell_the_text_and_hold_every_token_once(style):
    tokenizer = style()
    ids = encode(tokenizer, TEXT)
    pieces = PieceDecoder(tokenizer).decode(ids, [False] * len(ids))
    assert "".join(piece.text for piece in pieces) == TEXT
    assert [number for piece in pieces for number in piece.ids] == ids
    assert max(len(piece.ids) for piece in pieces) >= 3  # a character in parts
    assert not any(piece.is_name for piece in pieces)


def test_a_token_of_its_own_text_is_a_piece():
    tokenizer = train_bpe(iter(["the card", "the card"]), vocab_size=265)
    ids = encode(tokenizer, "the card")
    pieces = PieceDecoder(tokenizer).decode(ids, [False, *[True] * (len(ids) - 1)])
    assert [piece.text for piece in pieces] == ["the", " card"]
    assert [piece.is_target for piece in pieces] == [False, True]


def test_the_space_before_a_word_stays():
    tokenizer = bert_style()
    tokenizer.decoder = decoders.WordPiece()
    pieces = PieceDecoder(tokenizer).decode([1, 6, 7, 10, 2], [False] * 5)
    assert [piece.text for piece in pieces] == ["[CLS]", "the", " card", " arrived", "[SEP]"]
    assert [piece.is_special for piece in pieces] == [True, False, False, False, True]


def test_the_space_of_a_sentence_piece_stays():
    tokenizer = Tokenizer(
        models.WordLevel({"\u2581the": 0, "\u2581card": 1, "\u2581": 2}, unk_token="\u2581")
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    ids = encode(tokenizer, "the card the")
    pieces = PieceDecoder(tokenizer).decode([2, *ids], [True] * 4)
    # The first is only a space, which the decoder leaves out: it is shown by its name.
    assert [(piece.text, piece.is_name) for piece in pieces] == [
        ("\u2581", True),
        (" the", False),
        (" card", False),
        (" the", False),
    ]


def test_a_cut_character_is_shown_by_its_bytes():
    tokenizer = byte_level_bpe([END])
    ids = encode(tokenizer, "龘x")  # E9 BE 98: in no text that it was trained on
    assert len(ids) == 4
    decoder = PieceDecoder(tokenizer)
    cut = decoder.decode(ids[:2], [False, False])
    assert [(piece.text, piece.is_name) for piece in cut] == [("E9", True), ("BE", True)]
    rest = decoder.decode(ids[1:], [False] * 3)
    assert [number for piece in rest for number in piece.ids] == ids[1:]
    assert rest[-1].text.endswith("x")


def test_a_character_that_is_a_target_in_part_is_shown_by_its_bytes():
    tokenizer = byte_level_bpe([END])
    ids = encode(tokenizer, "龘x")
    pieces = PieceDecoder(tokenizer).decode(ids, [False, True, True, True])
    assert [(piece.text, piece.is_target) for piece in pieces] == [
        ("E9", False),
        ("BE", True),
        ("98", True),
        ("x", True),
    ]


def test_bytes_that_are_no_text_do_not_pile_up():
    tokenizer = byte_level_bpe([END])
    ids = encode(tokenizer, "\ufffd" * 40)
    pieces = PieceDecoder(tokenizer).decode(ids, [True] * len(ids))
    assert [number for piece in pieces for number in piece.ids] == ids
    assert len(ids) > MAX_SPLIT
    assert max(len(piece.ids) for piece in pieces) <= MAX_SPLIT
    assert {piece.text for piece in pieces} == {"EF", "BF", "BD"}


def test_an_id_without_a_token_is_shown_as_a_number():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    pieces = PieceDecoder(tokenizer).decode([0, 99], [True, True])
    assert [piece.text for piece in pieces] == ["a", "[99]"]


@pytest.mark.parametrize(
    ("first_target", "expected"), [(1, 0), (383, 0), (384, 256), (5_000, 4_872), (None, 0)]
)
def test_the_first_target_is_always_shown(first_target, expected):
    is_target = np.zeros(6_000, bool)
    if first_target is not None:
        is_target[first_target:] = True
    assert find_window(is_target) == expected
    assert first_target is None or expected <= first_target < expected + SAMPLE_TOKENS


def make_row(num_tokens, segments, targets, label=None, label_set=None):
    """A row of SEQUENCES; token i is the letter number i."""
    own = {"split": "train", "sequence_id": 7, "input_ids": [n % 26 for n in range(num_tokens)]}
    named = [
        {"doc_id": doc_id, "first_token": first, "num_tokens": size, "char_start": 0, "char_end": size}
        for doc_id, first, size in segments
    ]
    runs = [{"first_token": first, "num_tokens": size} for first, size in targets]
    counted = sum(size for _, size in targets) + (label is not None)
    own |= {"num_tokens": num_tokens, "targets": runs, "num_targets": counted, "segments": named}
    return {**own, "label": label, "labels": label_set}


def letters():
    vocabulary = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.decoder = decoders.Fuse()
    return PieceDecoder(tokenizer)


def test_a_row_becomes_a_sample_with_its_targets():
    row = make_row(6, [("a" * 32, 0, 4), ("b" * 32, 4, 2)], [(2, 2), (5, 1)], label=1)
    sample = make_sample(row, letters(), ["no", "yes"])
    assert [[(piece.text, piece.is_target) for piece in segment.pieces] for segment in sample.segments] == [
        [("a", False), ("b", False), ("c", True), ("d", True)],
        [("e", False), ("f", True)],
    ]
    assert (sample.label, sample.num_targets, sample.num_segments, sample.num_shown) == ("yes", 4, 2, 6)


def test_a_sample_names_the_classes_of_its_set():
    for label_set, expected in (([0, 2], ["no", "yes"]), ([], []), (None, None)):
        row = make_row(1, [("a" * 32, 0, 1)], [], label_set=label_set)
        assert make_sample(row, letters(), ["no", "perhaps", "yes"]).label_set == expected
    del row["labels"]  # of an earlier Distributary
    assert make_sample(row, letters(), ["no", "perhaps", "yes"]).label_set is None


def test_a_long_row_is_shown_in_part():
    sizes = [("a" * 32, 0, 600), ("b" * 32, 600, 600), ("c" * 32, 1_200, 800)]
    sample = make_sample(make_row(2_000, sizes, [(700, 500)]), letters(), [])
    assert (sample.first_token, sample.num_shown) == (572, SAMPLE_TOKENS)
    shown = [(segment.doc_id[0], len(segment.pieces)) for segment in sample.segments]
    assert shown == [("a", 28), ("b", 484)]
    assert sample.segments[0].pieces[0].ids == (572 % 26,)
    assert [piece.is_target for piece in sample.segments[1].pieces].index(True) == 100
    assert sample.num_segments == 3
