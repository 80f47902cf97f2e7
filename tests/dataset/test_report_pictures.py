"""Pictures of a report of sequences are checked by their texts and bars, not by pixels."""

import io

import pytest

from pipelines.charts import find_font
from pipelines.dataset.report import pictures
from pipelines.dataset.report.content import Documents, Sequences

TRAIN = {"sequences": 4, "tokens": 24, "cut_tokens": 8, "continued": 0, "targets": 16}
TEST = {"sequences": 1, "tokens": 2, "cut_tokens": 0, "continued": 0, "targets": 1}


def list_names(figure):
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def list_notes(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def list_bars(figure):
    return [
        (round(bar.get_x(), 4), round(bar.get_y() + bar.get_height() / 2, 4), round(bar.get_width(), 4))
        for bar in figure.axes[0].patches
    ]


def test_places_are_targets_then_tokens_then_padding():
    figure = pictures.draw_places({"test": TEST, "train": TRAIN}, 8, has_labels=False, title="t")
    assert list_names(figure) == ["train", "test"]
    targets, others, padding = list_bars(figure)[:2], list_bars(figure)[2:4], list_bars(figure)[4:]
    assert targets == [(0, 0, 0.5), (0, 1, 0.125)]
    assert others == [(0.5, 0, 0.25), (0.125, 1, 0.125)]
    assert padding == [(0.75, 0, 0.25), (0.25, 1, 0.75)]
    assert list_notes(figure)[0] == "4 sequences, 75 % filled\n24 tokens, 25 % cut off"


def test_a_class_takes_no_place():
    figure = pictures.draw_places({"train": {**TRAIN, "targets": 4}}, 8, has_labels=True, title="t")
    assert list_bars(figure) == [(0, 0, 0), (0, 0, 0.75), (0.75, 0, 0.25)]


@pytest.mark.parametrize(("is_masked", "name"), [(False, "targets"), (True, "may be masked")])
def test_the_legend_names_targets_or_what_may_be_masked(is_masked, name):
    figure = pictures.draw_places({"train": TRAIN}, 8, has_labels=False, is_masked=is_masked, title="t")
    assert [text.get_text() for text in figure.legends[0].texts] == [name, "other tokens", "padding"]


def test_lengths_are_shares_before_and_after():
    documents = {3: Documents(3, 15, 3), 5: Documents(1, 20, 3)}
    figure = pictures.draw_lengths(documents, {4: Sequences(2, 16, 14)}, title="t")
    assert list_names(figure) == ["4 to 7", "8 to 15", "16 to 31"]
    assert [width for _, _, width in list_bars(figure)] == [0.75, 0, 0.25, 0, 1, 0]
    assert list_notes(figure)[0] == "3 documents\n0 sequences"


def test_sources_stand_by_tokens_and_the_rest_together():
    sources = {f"s{number:02}": Documents(1, 100 - number, 1) for number in range(pictures.MAX_SOURCES + 2)}
    figure = pictures.draw_sources({**sources, "来": Documents(2, 500, 2)}, title="t")
    assert list_names(figure)[:2] == ["来" if find_font(["来"]) else "(row 1)", "s00"]
    assert list_names(figure)[-1] == "3 other sources"
    assert list_notes(figure)[0].startswith("500  (")
    assert list_bars(figure)[-1][2] == 71 + 70 + 69


@pytest.mark.parametrize("num", [0, 1, 40])
def test_pictures_of_any_size_can_be_drawn(num):
    documents = {bits: Documents(10**9 + bits, 10**12, 10**9) for bits in range(1, num + 1)}
    sequences = {bits: Sequences(10**9, 10**12, 10**12) for bits in range(1, num + 1)}
    sources = {f"来源 {bits}": own for bits, own in documents.items()}
    for figure in (
        pictures.draw_places(dict.fromkeys(["train"][:num], TRAIN), 8, has_labels=False, title="t"),
        pictures.draw_lengths(documents, sequences, title="t"),
        pictures.draw_sources(sources, title="t"),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer)
        assert buffer.getvalue().startswith(b"\x89PNG")
        assert len(buffer.getvalue()) < 400_000
