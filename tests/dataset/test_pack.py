import numpy as np
import pytest

from pipelines.dataset.packing.pack import EncodedDocument, concatenate, one_per_document, token_bytes


def encoded(doc_id: str, first: int, num_tokens: int, *, cut: int = 0) -> EncodedDocument:
    ids = np.arange(first, first + num_tokens, dtype=np.int32)
    starts = np.arange(num_tokens, dtype=np.int32)
    return EncodedDocument(doc_id, ids, starts, starts + 1, np.ones(num_tokens, np.int32), cut)


@pytest.mark.parametrize("length", [2, 3, 7, 100])
def test_concatenate_keeps_every_token_once_and_in_order(length):
    documents = [encoded("a", 0, 5), encoded("b", 5, 1), encoded("c", 6, 0), encoded("d", 6, 9)]
    packed = list(concatenate(documents, length=length))
    assert np.concatenate([each.input_ids for each in packed]).tolist() == list(range(15))
    assert all(len(each.input_ids) == length for each in packed[:-1])


def test_segments_name_document_first_token_and_characters():
    first, second = concatenate([encoded("a", 0, 3), encoded("b", 3, 4)], length=5)
    assert [tuple(segment) for segment in first.segments] == [("a", 0, 3, 0, 3), ("b", 3, 2, 0, 2)]
    assert [tuple(segment) for segment in second.segments] == [("b", 0, 2, 2, 4)]


def test_special_tokens_do_not_widen_the_characters_of_a_segment():
    document = EncodedDocument(
        "a",
        np.array([7, 8, 9], np.int32),
        np.array([-1, 4, -1], np.int32),
        np.array([-1, 6, -1], np.int32),
        np.array([0, 2, 0], np.int32),
    )
    (packed,) = one_per_document([document], length=3)
    assert tuple(packed.segments[0]) == ("a", 0, 3, 4, 6)


def test_one_per_document_counts_what_the_encoder_cut_and_refuses_what_it_did_not():
    (packed,) = one_per_document([encoded("a", 0, 4, cut=3)], length=4)
    assert packed.num_cut_tokens == 3
    with pytest.raises(ValueError, match="document a has 5 tokens, at most 4 fit"):
        list(one_per_document([encoded("a", 0, 5)], length=4))


@pytest.mark.parametrize(
    ("text", "char_end", "expected"),
    [
        ("abc", [1, 2, 3], [1, 1, 1]),
        ("你好!", [1, 2, 3], [3, 3, 1]),  # 3 bytes a Chinese character
        ("你a", [1, 1, 1, 2], [3, 0, 0, 1]),  # a character over three tokens is counted once
        ("a 😀", [1, 3], [1, 5]),  # white space belongs to the token after it
        ("ab  ", [2, -1], [4, 0]),  # what follows the last real token belongs to it; special tokens add none
        ("", [], []),
    ],
)
def test_bytes_of_tokens_sum_to_the_text(text, char_end, expected):
    added = token_bytes(text, np.asarray(char_end, np.int32))
    assert added.tolist() == expected
    assert added.sum() == (len(text.encode()) if char_end else 0)
