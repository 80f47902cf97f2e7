"""The page of a report of sequences: its numbers, its samples, and that no text becomes part of it."""

import base64
import hashlib
import re

import pytest

from pipelines.dataset.report.content import Documents, Piece
from pipelines.dataset.report.page import MAX_SOURCES, render
from tests.corpus.test_report_page import ATTACK, ATTRIBUTES, ELEMENTS, Reader
from tests.dataset.report_content import make_content, make_sample, make_segment


def read(**values):
    return Reader(render(make_content(**values)))


def test_splits_stand_in_their_order_with_padding_and_losses():
    rows = read().find_rows("train", "validation", "test")
    assert rows[:2] == [
        # 8 x 8 places: 60 of 64 filled, 4 padding; 7 of 67 tokens cut off.
        ["train", "8", "6094 % filled", "4982 %", "46.2 %", "710 %", "3"],
        ["test", "2", "956 % filled", "778 %", "744 %", "00 %", "1"],
    ]


def test_cards_add_up_all_splits():
    text = read().text
    for expected in (
        "sequences10of at most 8 tokens",
        "documents16in 20 segments",
        "tokens69fill 86 % of the sequences",
        "targets5681 % of the tokens count in the loss",
        "padding1114 % of the places",
        "tokens cut off79.2 % of all tokens",
    ):
        assert expected in text


def test_lengths_before_and_after_stand_side_by_side():
    found = read()
    start = next(n for n, row in enumerate(found.rows) if row[:2] == [["tokens"], ["documents"]])
    rows = [["".join(cell) for cell in row] for row in found.rows[start + 1 : start + 6]]
    assert rows == [
        ["1", "0", "0", "1", "1"],
        ["2 to 3", "12", "34", "0", "0"],
        ["4 to 7", "3", "15", "2", "12"],
        ["8 to 15", "0", "0", "7", "56"],
        ["16 to 31", "1", "27", "0", "0"],
    ]


def test_the_fullest_sequences_stand_first():
    found = read()
    start = next(n for n, row in enumerate(found.rows) if row[0] == ["places with a token"])
    rows = [[cell[0] for cell in row] for row in found.rows[start + 1 : start + 12]]
    assert [row for row in rows if row[1] != "0"] == [["full", "7"], ["70 to 79 %", "2"], ["10 to 19 %", "1"]]
    assert [row[0] for row in rows][-1] == "0 to 9 %"


def test_sources_stand_by_tokens_of_all_splits():
    rows = read().find_rows("web", "news")
    assert rows == [["web", "10", "4565 %", "713 %", "13"], ["news", "6", "2435 %", "00 %", "7"]]


def test_many_sources_are_added_up():
    documents = {("train", f"s{n:03}", 3): Documents(1, 1000 - n, 1) for n in range(MAX_SOURCES + 2)}
    found = read(documents=documents)
    assert len(found.find_rows("s0", "s1")) == MAX_SOURCES
    assert found.find_rows("2 other sources")[0][1:] == ["2", "1,7991.9 %", "00 %", "2"]


def list_pieces(found):
    """(element, class, title) of every piece of a sample."""
    titled = [(element, own) for element, own in found.elements if "title" in own]
    return [(element, own.get("class"), own["title"]) for element, own in titled]


def test_targets_are_underlined_and_special_tokens_marked():
    found = read()
    assert list_pieces(found) == [
        ("span", None, "id 5 6"),
        ("u", "target", "id 7"),
        ("u", "target special", "id 0"),
    ]
    assert "我的卡\u21b5\n<|end|>" in found.text
    assert "train, sequence 4711" in found.text
    assert "4 tokens \u00b7 2 targets \u00b7 1 segment" in found.text


def test_every_segment_is_a_block_with_its_document():
    segments = [
        make_segment(Piece("a", (1,)), doc_id="01" * 16, char_end=1),
        make_segment(Piece("b", (2,)), doc_id="23" * 16, first_token=1, char_start=1_000, char_end=1_001),
    ]
    found = read(samples=[make_sample(*segments)])
    assert [own.get("class") for element, own in found.elements if element == "div"].count("segment") == 2
    assert f"document {'23' * 16} \u00b7 tokens 1 to 2 \u00b7 characters 1,000 to 1,001" in found.text


def test_a_class_is_shown_as_the_target():
    sample = make_sample(make_segment(Piece("hi", (1,))), label="card_arrival", num_targets=1)
    found = read(samples=[sample], num_labels=77, task="classification")
    assert "Class: card_arrival" in found.text
    assert "1 class as target" in found.text
    assert "one of 77 classes for each sequence" in found.text


@pytest.mark.parametrize(
    ("label_set", "words"), [(["card", "fee"], "2 classes"), (["fee"], "1 class"), ([], "0 cl")]
)
def test_a_set_of_classes_is_shown_as_the_target(label_set, words):
    sample = make_sample(make_segment(Piece("hi", (1,))), label_set=label_set, num_targets=1)
    found = read(samples=[sample], num_labels=9, task="multi_label_classification")
    assert [f"Class: {name}" in found.text for name in ("card", "fee")] == [
        name in label_set for name in ("card", "fee")
    ]
    assert f"4 tokens \u00b7 {words}" in found.text.replace("1 tokens", "4 tokens")
    assert "any of 9 classes for each sequence, or none" in found.text


def test_tokens_that_may_be_masked_are_not_called_targets():
    found = read(task="masked_language_modelling")
    masks = "a training masks finetune.mask_fraction of the"
    assert f"may be masked5681 % of the tokens; {masks}m" in found.text  # on the card
    (headers,) = [row for row in found.rows if row[:1] == [["split"]]]
    assert ["may be masked"] in headers
    assert f"token may be masked; {masks}se \u00a0 token is never masked" in found.text
    assert "4 tokens \u00b7 2 that may be masked \u00b7 1 segment" in found.text
    for wrong in ("targets", "count in the loss", "counts in the loss"):
        assert wrong in read().text
        assert wrong not in found.text


def test_what_is_left_out_of_a_sample_is_counted():
    segment = make_segment(Piece("a", (1,)), Piece("b", (2,)), num_tokens=1_000)
    found = read(samples=[make_sample(segment, num_tokens=1_300, first_token=300)])
    assert "\u2026 300 tokens before" in found.text
    assert "\u2026 998 tokens more" in found.text
    assert "tokens more" not in read().text


def test_untrusted_text_stays_text():
    pieces = [Piece(ATTACK, (1,)), Piece(ATTACK, (2,), is_target=True), Piece(ATTACK, (3,), is_special=True)]
    found = read(
        title=ATTACK,
        documents={("train", ATTACK, 3): Documents(1, 1, 1)},
        samples=[make_sample(make_segment(*pieces, doc_id=ATTACK), label=ATTACK)],
    )
    assert {element for element, _ in found.elements} <= ELEMENTS | {"u"}
    assert {key for _, attributes in found.elements for key in attributes} <= ATTRIBUTES | {"title"}
    assert found.text.count(ATTACK) == 8  # title twice, source, three pieces, document, class


def test_controls_and_marks_of_direction_do_not_reach_the_page():
    text = render(make_content(samples=[make_sample(make_segment(Piece("a\x00\x1b[31m\u202eb\r\t", (1,))))]))
    assert "a\ufffd\ufffd[31m\ufffdb\u240d\u21e5\t" in text


def test_nothing_is_loaded_from_elsewhere():
    text = render(make_content())
    found = Reader(text)
    links = [attributes["href"] for _, attributes in found.elements if "href" in attributes]
    ids = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
    assert len(links) == 6
    assert {link.removeprefix("#") for link in links} == ids
    assert not re.search(r"url\(|@import|src=|javascript:", text)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src &#x27;none&#x27;; style-src &#x27;sha256-{digest}&#x27;" in text


def test_the_page_names_version_and_digest_of_the_sequences():
    metas = [attributes for element, attributes in read().elements if element == "meta"]
    assert {"name": "distributary:digest", "content": "cd" * 16} in metas
    assert {"name": "distributary:version", "content": "3"} in metas


@pytest.mark.parametrize("samples", [[], [make_sample(make_segment())]])
def test_a_table_without_sequences_has_a_page(samples):
    empty = {"lengths": {}, "fills": {}, "documents": {}}
    text = read(**empty, samples=samples).text
    assert text.count("There are no sequences.") == (5 if not samples else 4)
