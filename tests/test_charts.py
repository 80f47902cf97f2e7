"""Charts are checked by their texts and ticks, not by pixels."""

import io

import numpy as np
import pytest

from pipelines import charts

COUNTS = np.array([[9, 1, 0], [0, 5, 5], [0, 0, 10]])
LABELS = ["card", "cash", "transfer"]


def test_classes_with_most_errors_come_first():
    # Errors by hand: card 1 missed; cash 5 missed + 1 given; transfer 5 given.
    assert charts.order_by_errors(COUNTS).tolist() == [1, 2, 0]


def test_text_lists_worst_pair_and_every_class():
    lines = charts.format_confusion(COUNTS, LABELS).splitlines()
    assert lines[0] == "6 of 30 documents wrong, in 2 pairs of classes"
    assert lines[3].split() == ["5", "cash", "->", "transfer"]
    assert [line.split() for line in lines[-3:]] == [
        ["1", "10", "50.0%", "83.3%", "cash"],
        ["2", "10", "100.0%", "66.7%", "transfer"],
        ["0", "10", "90.0%", "100.0%", "card"],
    ]


def test_a_class_without_documents_has_no_recall():
    assert charts.format_confusion(np.array([[1, 0], [0, 0]]), ["a", "b"]).splitlines()[-1].split() == [
        "1",
        "0",
        "-",
        "-",
        "b",
    ]


def test_rows_have_class_names():
    figure = charts.draw_confusion(COUNTS, LABELS, title="t")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["cash", "transfer", "card"]


def test_names_without_a_font_become_class_numbers():
    # U+10FFFE is a non-character: no font may have it.
    figure = charts.draw_confusion(COUNTS, ["card", "\U0010fffe", "transfer"], title="t")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["1", "2", "0"]
    assert "class numbers" in figure.axes[0].get_ylabel()


def test_long_names_with_equal_beginnings_stay_different():
    names = [
        "balance_not_updated_after_bank_transfer",
        "balance_not_updated_after_cheque_or_cash_deposit",
        "x",
    ]
    ticks = [
        tick.get_text() for tick in charts.draw_confusion(COUNTS, names, title="t").axes[0].get_yticklabels()
    ]
    assert len(set(ticks)) == 3
    assert max(map(len, ticks)) <= charts.MAX_NAME


@pytest.mark.parametrize("num", [1, 2, 20, 77, 130])
def test_confusion_of_any_size_renders(num):
    counts = np.eye(num, dtype=int) * 3
    counts[0, -1] += 2
    buffer = io.BytesIO()
    charts.draw_confusion(counts, [f"class {i}" for i in range(num)], title="t").savefig(buffer, dpi=30)
    assert buffer.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("num_steps", [0, 1, 10, 400])
def test_a_loss_curve_of_any_length_renders(num_steps):
    train = {step: 3 / (step + 1) for step in range(num_steps)}
    figure = charts.draw_loss_curve(
        train, {5: 1.0, 9: float("nan")} if num_steps > 9 else {}, dict.fromkeys(train, 1e-3), title="t"
    )
    figure.savefig(io.BytesIO(), dpi=30)
    assert figure.axes[1].get_ylabel() == "learning\nrate"


def test_smoothing_keeps_constants_and_lines():
    assert charts._smooth(np.full(20, 2.0), window=5).tolist() == [2.0] * 20
    line = np.arange(20.0)
    assert np.allclose(charts._smooth(line, window=5)[2:-2], line[2:-2])


def test_a_mixture_is_drawn_beside_its_plan_largest_source_first():
    realised = {"code": {1000: 0.21, 2000: 0.19}, "web": {1000: 0.79, 2000: 0.81}}
    (axes,) = charts.draw_mixture(realised, {"code": 0.2, "web": 0.8}).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "web: 80.00% planned",
        "code: 20.00% planned",
    ]
    lines = [(line.get_xdata(), line.get_ydata()) for line in axes.lines]
    assert [list(map(float, ys)) for _, ys in lines] == [[0.79, 0.81], [0.8, 0.8], [0.21, 0.19], [0.2, 0.2]]
    assert list(lines[0][0]) == [1000, 2000]


def test_many_sources_share_one_colour():
    planned = {f"s{number:02}": 1 / 30 for number in range(30)}
    (axes,) = charts.draw_mixture({name: {1: 1 / 30} for name in planned}, planned).axes
    assert len(axes.get_legend().get_texts()) == charts.MAX_SOURCES
    assert axes.lines[-1].get_color() == charts.GREY
